/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Iterates over two maps of one disk together: the dirty ranges, and which of them read as zeros.
 *
 * A join is a position in each map, so it costs no memory, regardless of the number of extents.
 * Starting anywhere takes two binary searches; a step takes constant time.
 */
#pragma once

#include "map/map.h"

/* The range [start, end) of the disk. */
typedef struct {
    uint64_t start, end;
    bool dirty; /* without a dirty map: true everywhere */
    bool zero;  /* known to read as zeros; false without an allocation map */
    bool hole;  /* not allocated, regardless of what it reads as */
} FlRange;

/* Which changes end a range. Other properties are those at the start of the range. */
typedef enum {
    FL_JOIN_DIRTY = 1,
    FL_JOIN_ZERO = 2,
    FL_JOIN_HOLE = 4,
} FlJoinBy;

typedef struct {
    const FlMap *alloc, *dirty; /* not owned; may be NULL */
    uint64_t size, at;
    size_t ialloc, idirty;
    unsigned by;
} FlJoin;

/*
 * Starts at OFFSET and ends at SIZE. ALLOC (base:allocation) and DIRTY (a dirty bitmap) are maps of
 * at least SIZE bytes, or NULL, and must outlive the join. BY is a combination of FlJoinBy flags.
 */
void fl_join_init(FlJoin *join, const FlMap *alloc, const FlMap *dirty, uint64_t size,
                  uint64_t offset, unsigned by);

/*
 * The next range. It starts where the last one ended (the first one at the starting offset, even
 * inside an extent) and extends until a property in BY changes. False at the end.
 */
bool fl_join_next(FlJoin *join, FlRange *range);
