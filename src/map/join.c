/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "map/join.h"

void fl_join_init(FlJoin *join, const FlMap *alloc, const FlMap *dirty, uint64_t size,
                  uint64_t offset, unsigned by)
{
    *join = (FlJoin){.alloc = alloc, .dirty = dirty, .size = size, .at = offset, .by = by};
    if (offset >= size)
        return;
    if (alloc != NULL)
        join->ialloc = fl_map_find(alloc, offset);
    if (dirty != NULL)
        join->idirty = fl_map_find(dirty, offset);
}

/* The longest range from the current position in which neither map changes. */
static FlRange step(FlJoin *join)
{
    FlRange range = {.start = join->at, .end = join->size, .dirty = true};

    if (join->dirty != NULL) {
        FlExtent e = fl_map_get(join->dirty, join->idirty);
        range.dirty = (e.type & FL_DIRTY) != 0;
        range.end = MIN(range.end, e.end);
    }
    if (join->alloc != NULL) {
        FlExtent e = fl_map_get(join->alloc, join->ialloc);
        range.zero = (e.type & FL_ALLOC_ZERO) != 0;
        range.hole = (e.type & FL_ALLOC_HOLE) != 0;
        range.end = MIN(range.end, e.end);
    }
    return range;
}

static void advance(FlJoin *join, uint64_t to)
{
    join->at = to;
    if (to >= join->size)
        return;
    if (join->dirty != NULL && fl_map_get(join->dirty, join->idirty).end == to)
        join->idirty++;
    if (join->alloc != NULL && fl_map_get(join->alloc, join->ialloc).end == to)
        join->ialloc++;
}

static bool differs(const FlRange *a, const FlRange *b, unsigned by)
{
    return ((by & FL_JOIN_DIRTY) && a->dirty != b->dirty) ||
           ((by & FL_JOIN_ZERO) && a->zero != b->zero) ||
           ((by & FL_JOIN_HOLE) && a->hole != b->hole);
}

bool fl_join_next(FlJoin *join, FlRange *range)
{
    if (join->at >= join->size)
        return false;

    *range = step(join);
    advance(join, range->end);
    while (join->at < join->size) {
        FlRange next = step(join);
        if (differs(range, &next, join->by))
            break;
        range->end = next.end;
        advance(join, next.end);
    }
    return true;
}
