/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/mapfile.h"

#include "view/lines.h"
#include "view/text.h"

#include <string.h>

#define OFFSET_WIDTH 20 /* 2^64-1 */
#define TYPE_WIDTH   10 /* 2^32-1 */
#define GAP          2

typedef struct {
    FlLines lines;
    FlMap *map;
    FlContextKind kind;
    size_t line_length; /* with the newline */
} MapView;

char *fl_context_describe(char *description, FlContextKind kind, uint32_t type)
{
    static const char *const allocation[] = {"data", "hole", "zero", "hole,zero"};
    static const char *const dirty[] = {"clean", "dirty"};
    static const char *const depth[] = {"absent", "local"};

    switch (kind) {
    case FL_CONTEXT_ALLOCATION:
        if (type < G_N_ELEMENTS(allocation))
            return fl_put_text(description, allocation[type]);
        break;
    case FL_CONTEXT_DIRTY:
        if (type < G_N_ELEMENTS(dirty))
            return fl_put_text(description, dirty[type]);
        break;
    case FL_CONTEXT_DEPTH:
        if (type < G_N_ELEMENTS(depth))
            return fl_put_text(description, depth[type]);
        return fl_put_decimal(fl_put_text(description, "backing depth "), type);
    case FL_CONTEXT_OTHER:
        break;
    }
    return description;
}

/* Length of the longest description; 0 if the kind has none. */
static size_t description_width(FlContextKind kind)
{
    switch (kind) {
    case FL_CONTEXT_ALLOCATION:
        return strlen("hole,zero");
    case FL_CONTEXT_DIRTY:
        return strlen("clean");
    case FL_CONTEXT_DEPTH:
        return strlen("backing depth 4294967295");
    case FL_CONTEXT_OTHER:
        break;
    }
    return 0;
}

static void map_start(const FlLines *lines, FlLineCursor *cursor, uint64_t offset)
{
    const MapView *view = (const MapView *)lines;

    cursor->index = offset / view->line_length;
    cursor->at = cursor->index * view->line_length;
}

static size_t map_next(const FlLines *lines, FlLineCursor *cursor, char *line)
{
    const MapView *view = (const MapView *)lines;
    FlExtent e = fl_map_get(view->map, cursor->index++);
    char *out = line;

    memset(line, ' ', view->line_length);
    out = fl_put_padded(out, OFFSET_WIDTH, ' ', e.start, 10);
    out = fl_put_padded(out + GAP, OFFSET_WIDTH, ' ', e.end - e.start, 10);
    out = fl_put_padded(out + GAP, TYPE_WIDTH, ' ', e.type, 10);
    fl_context_describe(out + GAP, view->kind, e.type);
    line[view->line_length - 1] = '\n';
    return view->line_length;
}

static void map_clear(FlView *view)
{
    fl_map_unref(((MapView *)view)->map);
}

static const FlViewOps map_view_ops = {
    .piece = fl_text_piece,
    .make = fl_lines_make,
    .clear = map_clear,
};
static const FlLinesOps map_lines_ops = {.start = map_start, .next = map_next};

FlView *fl_view_map_new(FlMap *map, FlContextKind kind)
{
    FlView *view = fl_view_alloc(sizeof(MapView), &map_view_ops);
    MapView *self = (MapView *)view;
    size_t description = description_width(kind);

    self->lines.ops = &map_lines_ops;
    self->map = fl_map_ref(map);
    self->kind = kind;
    self->line_length = OFFSET_WIDTH + GAP + OFFSET_WIDTH + GAP + TYPE_WIDTH +
                        (description > 0 ? GAP + description : 0) + 1;
    view->size = view->data_bytes = fl_map_count(map) * self->line_length;
    return view;
}
