/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extent maps: a disk divided into ranges, each with a type.
 *
 * A map covers [0, size) without gaps; neighbours have different types. It is immutable, counted
 * atomically and may be used by any thread. It takes 5 bytes an extent where extents are of
 * whole sectors (512 bytes) and types small, else up to 12; finding an offset is a binary search.
 *
 * Sizes and offsets are bytes; sizes go up to 2^63-1. Types are the flags of an NBD block status
 * reply (NBD protocol, "Metadata querying"); what they mean depends on the meta context.
 */
#pragma once

#include "util/error.h"

#include <stddef.h>
#include <stdint.h>

/* base:allocation */
#define FL_ALLOC_HOLE 1u
#define FL_ALLOC_ZERO 2u
/* qemu:dirty-bitmap:NAME */
#define FL_DIRTY 1u

/* The range [start, end). */
typedef struct {
    uint64_t start, end;
    uint32_t type;
} FlExtent;

typedef struct FlMap FlMap;

FlMap *fl_map_ref(FlMap *map);
void fl_map_unref(FlMap *map); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlMap, fl_map_unref)

/* A map of one extent (none if SIZE is 0). */
FlMap *fl_map_new_uniform(uint64_t size, uint32_t type);

uint64_t fl_map_size(const FlMap *map);
size_t fl_map_count(const FlMap *map);
/* Extent INDEX, below fl_map_count(). */
FlExtent fl_map_get(const FlMap *map, size_t index);
/* The index of the extent that holds OFFSET, which is below the size. */
size_t fl_map_find(const FlMap *map, uint64_t offset);
/* Bytes of all extents for which (type & mask) == value. */
uint64_t fl_map_bytes(const FlMap *map, uint32_t mask, uint32_t value);
/* Whether the two are equal, extent by extent. */
bool fl_map_equal(const FlMap *a, const FlMap *b);

/*
 * Building: ranges are added from 0 on, in order; neighbours of one type are merged. Not
 * thread-safe.
 */
typedef struct FlMapBuilder FlMapBuilder;

FlMapBuilder *fl_map_builder_new(void);
void fl_map_builder_free(FlMapBuilder *builder); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlMapBuilder, fl_map_builder_free)

/* Adds LENGTH bytes of TYPE at the end; a length of 0 adds nothing. -EOVERFLOW past 2^63-1, -ENOMEM
 * without memory; the builder is as before then. */
errint_t fl_map_builder_add(FlMapBuilder *builder, uint64_t length, uint32_t type);
/* Moves what PART holds to the end of BUILDER and frees PART, with next to no memory beyond what
 * the two have. Errors are those of fl_map_builder_add(); some of PART may have moved then. */
errint_t fl_map_builder_take(FlMapBuilder *builder, FlMapBuilder *part);
/* Bytes covered so far. */
uint64_t fl_map_builder_size(const FlMapBuilder *builder);
/* Extents so far. */
size_t fl_map_builder_count(const FlMapBuilder *builder);
/* Memory taken so far. */
size_t fl_map_builder_bytes(const FlMapBuilder *builder);
/* The map of what was added. The builder is freed. */
FlMap *fl_map_builder_finish(FlMapBuilder *builder);
