/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/bytes.h"

#include "view/text.h"

#include <string.h>

typedef struct {
    FlView view;
    GBytes *bytes;
} BytesView;

static void bytes_make(const FlView *view, void *buf, size_t length, uint64_t offset)
{
    const char *data = g_bytes_get_data(((const BytesView *)view)->bytes, NULL);

    memcpy(buf, data + offset, length);
}

static void bytes_clear(FlView *view)
{
    g_bytes_unref(((BytesView *)view)->bytes);
}

static const FlViewOps bytes_ops = {
    .piece = fl_text_piece,
    .make = bytes_make,
    .clear = bytes_clear,
};

FlView *fl_view_bytes_new(GBytes *bytes)
{
    FlView *view = fl_view_alloc(sizeof(BytesView), &bytes_ops);

    ((BytesView *)view)->bytes = g_bytes_ref(bytes);
    view->size = view->data_bytes = g_bytes_get_size(bytes);
    return view;
}
