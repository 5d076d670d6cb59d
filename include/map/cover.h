/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set of ranges: which bytes were read so far. Neighbours are merged, so that a sequential reader
 * costs one range, and adding is logarithmic. Not thread-safe.
 */
#pragma once

#include "map/join.h"

typedef struct FlCover FlCover;

FlCover *fl_cover_new(void);
void fl_cover_free(FlCover *cover); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlCover, fl_cover_free)

/* Adds [START, END). */
void fl_cover_add(FlCover *cover, uint64_t start, uint64_t end);
/* How many bytes of [START, END) are in the set. */
uint64_t fl_cover_bytes(const FlCover *cover, uint64_t start, uint64_t end);
/* The first range of the set that ends after OFFSET; false if there is none. */
bool fl_cover_next(const FlCover *cover, uint64_t offset, uint64_t *start, uint64_t *end);
