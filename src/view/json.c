/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/json.h"

#include "view/bytes.h"
#include "view/lines.h"
#include "view/text.h"

#define CHECKPOINT_LINES 512

/* The line at file_offset describes the extent at disk_offset. */
typedef struct {
    uint64_t file_offset, disk_offset;
} Checkpoint;

typedef struct {
    FlLines lines;
    FlMap *alloc, *dirty; /* owned, may be NULL */
    uint64_t disk_size;
    GArray *checkpoints; /* of Checkpoint; the first is {0, 0} */
} JsonView;

static void join_from(const JsonView *view, FlJoin *join, uint64_t disk_offset)
{
    fl_join_init(join, view->alloc, view->dirty, view->disk_size, disk_offset,
                 view->dirty != NULL ? FL_JOIN_DIRTY | FL_JOIN_ZERO : FL_JOIN_ZERO | FL_JOIN_HOLE);
}

static void json_start(const FlLines *lines, FlLineCursor *cursor, uint64_t offset)
{
    const JsonView *view = (const JsonView *)lines;
    const Checkpoint *checkpoints = &g_array_index(view->checkpoints, Checkpoint, 0);
    size_t low = 0, high = view->checkpoints->len;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (checkpoints[middle].file_offset <= offset)
            low = middle;
        else
            high = middle;
    }
    cursor->at = checkpoints[low].file_offset;
    join_from(view, &cursor->join, checkpoints[low].disk_offset);
}

static char *put_flag(char *out, const char *key, bool value)
{
    return fl_put_text(fl_put_text(out, key), value ? "true" : "false");
}

/* The first line also opens the array, the last one closes it. */
static size_t json_next(const FlLines *lines, FlLineCursor *cursor, char *line)
{
    const JsonView *view = (const JsonView *)lines;
    FlRange range;
    char *out = line;

    fl_join_next(&cursor->join, &range);
    out = fl_put_text(out, range.start == 0 ? "[\n{\"start\": " : "{\"start\": ");
    out = fl_put_decimal(out, range.start);
    out = fl_put_decimal(fl_put_text(out, ", \"length\": "), range.end - range.start);
    if (view->dirty != NULL) {
        out = put_flag(out, ", \"dirty\": ", range.dirty);
        out = put_flag(out, ", \"zero\": ", range.zero);
    } else {
        out = put_flag(out, ", \"zero\": ", range.zero);
        out = put_flag(out, ", \"hole\": ", range.hole);
    }
    out = fl_put_text(out, range.end == view->disk_size ? "}\n]\n" : "},\n");
    return (size_t)(out - line);
}

static void json_clear(FlView *view)
{
    JsonView *self = (JsonView *)view;

    fl_map_unref(self->alloc);
    fl_map_unref(self->dirty);
    g_array_unref(self->checkpoints);
}

static const FlViewOps json_view_ops = {
    .piece = fl_text_piece,
    .make = fl_lines_make,
    .clear = json_clear,
};
static const FlLinesOps json_lines_ops = {.start = json_start, .next = json_next};

/* Generates all lines once to set the checkpoints; returns the size of the file. */
static uint64_t measure(JsonView *view)
{
    FlLineCursor cursor = {0};
    char line[FL_LINE_MAX];

    join_from(view, &cursor.join, 0);
    for (size_t n = 0; cursor.join.at < view->disk_size; n++) {
        if (n % CHECKPOINT_LINES == 0) {
            Checkpoint checkpoint = {cursor.at, cursor.join.at};
            g_array_append_val(view->checkpoints, checkpoint);
        }
        cursor.at += json_next(&view->lines, &cursor, line);
    }
    return cursor.at;
}

FlView *fl_view_json_new(FlMap *alloc, FlMap *dirty, uint64_t size)
{
    FlView *view;
    JsonView *self;

    if (size == 0) {
        g_autoptr(GBytes) empty = g_bytes_new_static("[\n]\n", 4);
        return fl_view_bytes_new(empty);
    }

    view = fl_view_alloc(sizeof(JsonView), &json_view_ops);
    self = (JsonView *)view;
    self->lines.ops = &json_lines_ops;
    self->alloc = alloc != NULL ? fl_map_ref(alloc) : NULL;
    self->dirty = dirty != NULL ? fl_map_ref(dirty) : NULL;
    self->disk_size = size;
    self->checkpoints = g_array_new(FALSE, FALSE, sizeof(Checkpoint));
    view->size = view->data_bytes = measure(self);
    return view;
}
