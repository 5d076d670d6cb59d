/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/raw.h"

#include "map/join.h"

/* Maximum number of ranges merged into one piece: the cost of a piece must not depend on the number
 * of extents, and a piece may be shorter than possible. */
#define RANGES_MAX 64

typedef struct {
    FlView view;
    FlMap *alloc, *dirty; /* owned, may be NULL */
    uint64_t disk_size;
    uint64_t start; /* of the file on the disk */
} RawView;

/* Data is what a backup must contain, which differs from what must be fetched. */
static bool is_data(const RawView *raw, const FlRange *range)
{
    return raw->dirty != NULL ? range->dirty : !range->zero;
}

static FlPiece raw_piece(const FlView *view, uint64_t offset)
{
    const RawView *raw = (const RawView *)view;
    uint64_t at = raw->start + offset;
    FlPiece piece = {.start = offset, .disk_offset = at};
    FlJoin join;
    FlRange range;

    fl_join_init(&join, raw->alloc, raw->dirty, raw->disk_size, at,
                 FL_JOIN_DIRTY | FL_JOIN_ZERO | FL_JOIN_HOLE);
    for (unsigned i = 0; i < RANGES_MAX && fl_join_next(&join, &range); i++) {
        FlPieceKind kind = !range.dirty ? FL_PIECE_HOLE
                           : range.zero ? FL_PIECE_ZERO
                                        : FL_PIECE_DISK;

        if (i > 0 && kind != piece.kind)
            break;
        piece.kind = kind;
        piece.end = MIN(range.end - raw->start, view->size);
    }
    return piece;
}

static uint64_t raw_seek(const FlView *view, uint64_t offset, bool data)
{
    const RawView *raw = (const RawView *)view;
    FlJoin join;
    FlRange range;

    fl_join_init(&join, raw->alloc, raw->dirty, raw->disk_size, raw->start + offset,
                 raw->dirty != NULL ? FL_JOIN_DIRTY : FL_JOIN_ZERO);
    while (fl_join_next(&join, &range) && range.start - raw->start < view->size) {
        if (is_data(raw, &range) == data)
            return range.start - raw->start;
    }
    return view->size;
}

static void raw_clear(FlView *view)
{
    RawView *raw = (RawView *)view;

    fl_map_unref(raw->alloc);
    fl_map_unref(raw->dirty);
}

static const FlViewOps raw_ops = {.piece = raw_piece, .seek = raw_seek, .clear = raw_clear};

FlView *fl_view_raw_new(FlMap *alloc, FlMap *dirty, uint64_t size, uint64_t start, uint64_t length)
{
    FlView *view = fl_view_alloc(sizeof(RawView), &raw_ops);
    RawView *raw = (RawView *)view;
    FlJoin join;
    FlRange range;

    raw->alloc = alloc != NULL ? fl_map_ref(alloc) : NULL;
    raw->dirty = dirty != NULL ? fl_map_ref(dirty) : NULL;
    raw->disk_size = size;
    raw->start = start;
    view->size = length;

    fl_join_init(&join, alloc, dirty, size, start, dirty != NULL ? FL_JOIN_DIRTY : FL_JOIN_ZERO);
    while (fl_join_next(&join, &range) && range.start < start + length) {
        if (is_data(raw, &range))
            view->data_bytes += MIN(range.end, start + length) - range.start;
    }
    return view;
}
