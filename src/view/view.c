/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/view.h"

#include <errno.h>
#include <string.h>

FlView *fl_view_ref(FlView *view)
{
    g_atomic_ref_count_inc(&view->refs);
    return view;
}

void fl_view_unref(FlView *view)
{
    if (view == NULL || !g_atomic_ref_count_dec(&view->refs))
        return;
    if (view->ops->clear != NULL)
        view->ops->clear(view);
    g_free(view);
}

FlView *fl_view_alloc(size_t bytes, const FlViewOps *ops)
{
    FlView *view = g_malloc0(bytes);

    view->ops = ops;
    g_atomic_ref_count_init(&view->refs);
    return view;
}

void fl_view_make(const FlView *view, void *buf, size_t length, uint64_t offset)
{
    view->ops->make(view, buf, length, offset);
}

int64_t fl_view_seek(const FlView *view, int64_t offset, bool data)
{
    uint64_t found;

    if (offset < 0 || (uint64_t)offset >= view->size)
        return -ENXIO;
    if (view->ops->seek == NULL)
        return data ? offset : (int64_t)view->size;
    found = view->ops->seek(view, (uint64_t)offset, data);
    return data && found >= view->size ? -ENXIO : (int64_t)found;
}

errint_t fl_view_read(const FlView *view, void *buf, size_t length, uint64_t offset,
                      FlReadDisk read, void *opaque)
{
    char *out = buf;

    while (length > 0) {
        FlPiece piece = fl_view_piece(view, offset);
        size_t n = (size_t)MIN(piece.end - offset, length);
        errint_t r = 0;

        switch (piece.kind) {
        case FL_PIECE_DISK:
            r = read(opaque, out, n, piece.disk_offset);
            break;
        case FL_PIECE_ZERO:
        case FL_PIECE_HOLE:
            memset(out, 0, n);
            break;
        case FL_PIECE_MADE:
            fl_view_make(view, out, n, offset);
            break;
        }
        if (r < 0)
            return r;
        out += n;
        offset += n;
        length -= n;
    }
    return 0;
}
