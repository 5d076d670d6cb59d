/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/ddrescue.h"

#include "view/lines.h"
#include "view/text.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    FlLines lines;
    FlMap *dirty;
    unsigned digits; /* of a position or size */
    size_t head_length, line_length;
} DdrescueView;

/* The comments and the status line. The status is "nothing done yet", as ddrescue ignores it in a
 * domain. */
static size_t put_head(const DdrescueView *view, char *out)
{
    return (size_t)snprintf(out, FL_LINE_MAX,
                            "# Mapfile. Created by fleecefs\n"
                            "# current_pos  current_status  current_pass\n"
                            "0x%0*X     ?               1\n"
                            "#      pos        size  status\n",
                            (int)view->digits, 0);
}

/* "0x", digits and two spaces, twice; then the status. */
static size_t put_extent(const DdrescueView *view, char *line, const FlExtent *e)
{
    char *out = line;

    out = fl_put_padded(fl_put_text(out, "0x"), view->digits, '0', e->start, 16);
    out = fl_put_padded(fl_put_text(out, "  0x"), view->digits, '0', e->end - e->start, 16);
    out = fl_put_text(out, e->type & FL_DIRTY ? "  +\n" : "  ?\n");
    return (size_t)(out - line);
}

/* Line 0 is the head, line i + 1 is extent i. */
static void ddrescue_start(const FlLines *lines, FlLineCursor *cursor, uint64_t offset)
{
    const DdrescueView *view = (const DdrescueView *)lines;

    if (offset < view->head_length)
        return;
    cursor->index = 1 + (offset - view->head_length) / view->line_length;
    cursor->at = view->head_length + (cursor->index - 1) * view->line_length;
}

static size_t ddrescue_next(const FlLines *lines, FlLineCursor *cursor, char *line)
{
    const DdrescueView *view = (const DdrescueView *)lines;
    size_t index = cursor->index++;
    FlExtent e;

    if (index == 0)
        return put_head(view, line);
    e = fl_map_get(view->dirty, index - 1);
    return put_extent(view, line, &e);
}

static void ddrescue_clear(FlView *view)
{
    fl_map_unref(((DdrescueView *)view)->dirty);
}

static const FlViewOps ddrescue_view_ops = {
    .piece = fl_text_piece,
    .make = fl_lines_make,
    .clear = ddrescue_clear,
};
static const FlLinesOps ddrescue_lines_ops = {.start = ddrescue_start, .next = ddrescue_next};

FlView *fl_view_ddrescue_new(FlMap *dirty)
{
    FlView *view = fl_view_alloc(sizeof(DdrescueView), &ddrescue_view_ops);
    DdrescueView *self = (DdrescueView *)view;
    char line[FL_LINE_MAX];

    self->lines.ops = &ddrescue_lines_ops;
    self->dirty = fl_map_ref(dirty);
    self->digits = MAX(8, fl_digits(fl_map_size(dirty), 16));
    self->head_length = put_head(self, line);
    self->line_length = put_extent(self, line, &(FlExtent){0});
    view->size = view->data_bytes = self->head_length + fl_map_count(dirty) * self->line_length;
    return view;
}
