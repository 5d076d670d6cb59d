/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set of ranges: the bytes read so far. Adjacent ranges are merged, so that a sequential reader
 * costs one range; adding is logarithmic. A range takes 16 to 32 bytes. A set at its maximum number
 * of ranges ignores further ranges that touch none of them: it may lack bytes that were read, but
 * never contains any that were not. Not thread-safe.
 */
#pragma once

#include "map/join.h"

typedef struct FlCover FlCover;

/* Creates a set of at most MAX ranges. */
FlCover *fl_cover_new(size_t max);
void fl_cover_free(FlCover *cover); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlCover, fl_cover_free)

/* Adds [START, END). */
void fl_cover_add(FlCover *cover, uint64_t start, uint64_t end);
/* The number of bytes of [START, END) in the set. */
uint64_t fl_cover_bytes(const FlCover *cover, uint64_t start, uint64_t end);
/* The first range of the set that ends after OFFSET; false if there is none. */
bool fl_cover_next(const FlCover *cover, uint64_t offset, uint64_t *start, uint64_t *end);
