/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two maps of one disk read together: what is dirty, and what of it reads as zeros.
 *
 * Nothing is built: a join is a position in each map, so that it costs no memory however many
 * extents there are. Starting anywhere is two binary searches, a step is constant time.
 */
#pragma once

#include "map/map.h"

/* The range [start, end) of the disk. */
typedef struct {
    uint64_t start, end;
    bool dirty; /* without a dirty map: true everywhere */
    bool zero;  /* reads as zeros for certain; without an allocation map: false */
    bool hole;  /* not allocated, whatever it reads as */
} FlRange;

/* Which differences end a range; what is not asked for is reported as at the range's start. */
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
 * at least SIZE bytes, or NULL, and must outlive the join. BY is a set of FlJoinBy.
 */
void fl_join_init(FlJoin *join, const FlMap *alloc, const FlMap *dirty, uint64_t size,
                  uint64_t offset, unsigned by);

/*
 * The next range: it starts where the last one ended (the first at the starting offset, also in the
 * middle of an extent) and goes on as long as nothing changes that BY asks for. False at the end.
 */
bool fl_join_next(FlJoin *join, FlRange *range);
