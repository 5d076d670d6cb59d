/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extent maps: a disk divided into ranges, each with a type.
 *
 * A map covers [0, size) without gaps; adjacent extents differ in type. It is immutable, atomically
 * reference-counted and may be used by any thread. It takes 5 bytes per extent if extents are whole
 * sectors (512 bytes) and types are small, up to 12 otherwise; finding an offset is a binary
 * search.
 *
 * Sizes and offsets are bytes; sizes go up to 2^63-1. Types are the flags of an NBD block status
 * reply (NBD protocol, "Metadata querying"); their meaning depends on the meta context.
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
/* Whether A and B have the same extents. */
bool fl_map_equal(const FlMap *a, const FlMap *b);

/*
 * Builder: ranges are added in order, starting at 0; adjacent ranges of the same type are merged.
 * Not thread-safe.
 */
typedef struct FlMapBuilder FlMapBuilder;

FlMapBuilder *fl_map_builder_new(void);
void fl_map_builder_free(FlMapBuilder *builder); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlMapBuilder, fl_map_builder_free)

/* Appends LENGTH bytes of TYPE; a length of 0 adds nothing. Returns -EOVERFLOW past 2^63-1, or
 * -ENOMEM; the builder is then unchanged. */
errint_t fl_map_builder_add(FlMapBuilder *builder, uint64_t length, uint32_t type);
/* Moves the contents of PART to the end of BUILDER and frees PART, using almost no additional
 * memory. Errors as for fl_map_builder_add(); part of PART may then have moved. */
errint_t fl_map_builder_take(FlMapBuilder *builder, FlMapBuilder *part);
/* Bytes covered so far. */
uint64_t fl_map_builder_size(const FlMapBuilder *builder);
/* Extents so far. */
size_t fl_map_builder_count(const FlMapBuilder *builder);
/* Memory in use, in bytes. */
size_t fl_map_builder_bytes(const FlMapBuilder *builder);
/* Returns the map of the ranges added, and frees the builder. */
FlMap *fl_map_builder_finish(FlMapBuilder *builder);
