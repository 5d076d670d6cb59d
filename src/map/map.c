/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "map/map.h"

#include <errno.h>
#include <string.h>

/* Number of extents in each chunk except the last. */
#define CHUNK 1024
#define UNIT  512

/*
 * Consecutive extents. Nearly all extents end at a multiple of UNIT from the start of their chunk,
 * not far from it, and have a type below 256, so they take 5 bytes. If one does not fit, its whole
 * chunk is wide: 12 bytes per extent.
 */
typedef struct {
    uint64_t start;
    size_t room;
    bool wide;
    union {
        uint32_t *units; /* end of each extent, relative to START, in UNIT */
        uint64_t *bytes; /* wide: the end itself */
    } ends;
    union {
        uint8_t *small;
        uint32_t *any; /* wide */
    } types;
} Chunk;

struct FlMap {
    gatomicrefcount refs;
    size_t count; /* of extents */
    Chunk *chunks;
};

struct FlMapBuilder {
    FlMap *map;
    size_t chunks, chunks_room;
    uint64_t size;
    uint32_t last_type;
    size_t bytes; /* taken by the extents */
};

static size_t extent_bytes(bool wide)
{
    return wide ? sizeof(uint64_t) + sizeof(uint32_t) : sizeof(uint32_t) + sizeof(uint8_t);
}

static void chunk_clear(Chunk *chunk)
{
    if (chunk->wide) {
        g_clear_pointer(&chunk->ends.bytes, g_free);
        g_clear_pointer(&chunk->types.any, g_free);
    } else {
        g_clear_pointer(&chunk->ends.units, g_free);
        g_clear_pointer(&chunk->types.small, g_free);
    }
}

static uint64_t chunk_end(const Chunk *chunk, size_t i)
{
    return chunk->wide ? chunk->ends.bytes[i]
                       : chunk->start + (uint64_t)chunk->ends.units[i] * UNIT;
}

static uint32_t chunk_type(const Chunk *chunk, size_t i)
{
    return chunk->wide ? chunk->types.any[i] : chunk->types.small[i];
}

static bool chunk_fits(const Chunk *chunk, uint64_t end, uint32_t type)
{
    uint64_t distance = end - chunk->start;

    return chunk->wide ||
           (distance % UNIT == 0 && distance / UNIT <= UINT32_MAX && type <= UINT8_MAX);
}

static void chunk_set(Chunk *chunk, size_t i, uint64_t end, uint32_t type)
{
    if (chunk->wide) {
        chunk->ends.bytes[i] = end;
        chunk->types.any[i] = type;
    } else {
        chunk->ends.units[i] = (uint32_t)((end - chunk->start) / UNIT);
        chunk->types.small[i] = (uint8_t)type;
    }
}

/* The server determines the size of a map, so running out of memory must not abort the program. */
static bool chunk_resize(Chunk *chunk, size_t room)
{
    void *ends = chunk->wide ? (void *)g_try_renew(uint64_t, chunk->ends.bytes, room)
                             : (void *)g_try_renew(uint32_t, chunk->ends.units, room);
    void *types = NULL;

    if (ends == NULL)
        return false;
    chunk->ends.units = ends;
    types = chunk->wide ? (void *)g_try_renew(uint32_t, chunk->types.any, room)
                        : (void *)g_try_renew(uint8_t, chunk->types.small, room);
    if (types == NULL)
        return false;
    chunk->types.small = types;
    chunk->room = room;
    return true;
}

/* COUNT is the number of extents in CHUNK. */
static bool chunk_widen(Chunk *chunk, size_t count)
{
    Chunk wide = {.start = chunk->start, .wide = true};

    if (!chunk_resize(&wide, chunk->room)) {
        chunk_clear(&wide);
        return false;
    }
    for (size_t i = 0; i < count; i++)
        chunk_set(&wide, i, chunk_end(chunk, i), chunk_type(chunk, i));
    chunk_clear(chunk);
    *chunk = wide;
    return true;
}

/* Maps */

FlMap *fl_map_ref(FlMap *map)
{
    g_atomic_ref_count_inc(&map->refs);
    return map;
}

static size_t count_chunks(const FlMap *map)
{
    return map->count / CHUNK + (map->count % CHUNK != 0);
}

/* The number of extents in chunk CHUNK of MAP. */
static size_t chunk_count(const FlMap *map, size_t chunk)
{
    return MIN(CHUNK, map->count - chunk * CHUNK);
}

void fl_map_unref(FlMap *map)
{
    if (map == NULL || !g_atomic_ref_count_dec(&map->refs))
        return;
    for (size_t i = 0; i < count_chunks(map); i++)
        chunk_clear(&map->chunks[i]);
    g_free(map->chunks);
    g_free(map);
}

FlMap *fl_map_new_uniform(uint64_t size, uint32_t type)
{
    FlMapBuilder *builder = fl_map_builder_new();

    fl_map_builder_add(builder, size, type);
    return fl_map_builder_finish(builder);
}

uint64_t fl_map_size(const FlMap *map)
{
    return map->count == 0 ? 0 : fl_map_get(map, map->count - 1).end;
}

size_t fl_map_count(const FlMap *map)
{
    return map->count;
}

FlExtent fl_map_get(const FlMap *map, size_t index)
{
    const Chunk *chunk = &map->chunks[index / CHUNK];
    size_t i = index % CHUNK;

    return (FlExtent){
        .start = i == 0 ? chunk->start : chunk_end(chunk, i - 1),
        .end = chunk_end(chunk, i),
        .type = chunk_type(chunk, i),
    };
}

size_t fl_map_find(const FlMap *map, uint64_t offset)
{
    size_t low = 0, high = count_chunks(map), first;
    const Chunk *chunk;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (map->chunks[middle].start <= offset)
            low = middle;
        else
            high = middle;
    }
    chunk = &map->chunks[low];
    first = low * CHUNK;
    high = chunk_count(map, low) - 1;
    low = 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (chunk_end(chunk, middle) > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return first + low;
}

uint64_t fl_map_bytes(const FlMap *map, uint32_t mask, uint32_t value)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < map->count; i++) {
        FlExtent e = fl_map_get(map, i);
        if ((e.type & mask) == value)
            bytes += e.end - e.start;
    }
    return bytes;
}

bool fl_map_equal(const FlMap *a, const FlMap *b)
{
    bool equal = a->count == b->count;

    for (size_t i = 0; equal && i < a->count; i++) {
        FlExtent x = fl_map_get(a, i), y = fl_map_get(b, i);
        equal = x.end == y.end && x.type == y.type;
    }
    return equal;
}

/* Building */

FlMapBuilder *fl_map_builder_new(void)
{
    FlMapBuilder *builder = g_new0(FlMapBuilder, 1);

    builder->map = g_new0(FlMap, 1);
    g_atomic_ref_count_init(&builder->map->refs);
    return builder;
}

void fl_map_builder_free(FlMapBuilder *builder)
{
    if (builder == NULL)
        return;
    /* If memory ran out, there may be an extra chunk without extents. */
    for (size_t i = count_chunks(builder->map); i < builder->chunks; i++)
        chunk_clear(&builder->map->chunks[i]);
    fl_map_unref(builder->map);
    g_free(builder);
}

/* Ensures that there is a chunk for the next extent. */
static bool ensure_chunk(FlMapBuilder *builder)
{
    FlMap *map = builder->map;

    if (map->count < builder->chunks * CHUNK) {
        /* The chunk may be left over from an add that ran out of memory. */
        if (map->count % CHUNK == 0)
            map->chunks[builder->chunks - 1].start = builder->size;
        return true;
    }
    if (builder->chunks == builder->chunks_room) {
        size_t room = builder->chunks_room + builder->chunks_room / 2 + 1;
        Chunk *chunks = g_try_renew(Chunk, map->chunks, room);

        if (chunks == NULL)
            return false;
        map->chunks = chunks;
        builder->chunks_room = room;
    }
    map->chunks[builder->chunks++] = (Chunk){.start = builder->size};
    return true;
}

/* Ensures that CHUNK has room for COUNT extents. */
static bool ensure_room(FlMapBuilder *builder, Chunk *chunk, size_t count)
{
    size_t room = builder->chunks > 1 ? CHUNK : MIN(MAX(4, chunk->room * 2), CHUNK);

    if (count <= chunk->room)
        return true;
    builder->bytes += (room - chunk->room) * extent_bytes(chunk->wide);
    return chunk_resize(chunk, room);
}

errint_t fl_map_builder_add(FlMapBuilder *builder, uint64_t length, uint32_t type)
{
    FlMap *map = builder->map;
    bool joins = map->count > 0 && builder->last_type == type;
    uint64_t end = builder->size + length;
    Chunk *chunk;
    size_t i;

    if (length == 0)
        return 0;
    if (length > (uint64_t)INT64_MAX - builder->size)
        return -EOVERFLOW;
    if (!joins && !ensure_chunk(builder))
        return -ENOMEM;
    chunk = &map->chunks[(map->count - joins) / CHUNK];
    i = (map->count - joins) % CHUNK;
    if (!ensure_room(builder, chunk, i + 1))
        return -ENOMEM;
    if (!chunk_fits(chunk, end, type)) {
        if (!chunk_widen(chunk, i + joins))
            return -ENOMEM;
        builder->bytes += chunk->room * (extent_bytes(true) - extent_bytes(false));
    }
    chunk_set(chunk, i, end, type);
    map->count += !joins;
    builder->last_type = type;
    builder->size = end;
    return 0;
}

errint_t fl_map_builder_take(FlMapBuilder *builder, FlMapBuilder *part)
{
    errint_t result = 0;

    for (size_t i = 0; i < part->map->count && result == 0; i++) {
        FlExtent e = fl_map_get(part->map, i);

        result = fl_map_builder_add(builder, e.end - e.start, e.type);
        if (i % CHUNK == CHUNK - 1)
            chunk_clear(&part->map->chunks[i / CHUNK]);
    }
    fl_map_builder_free(part);
    return result;
}

uint64_t fl_map_builder_size(const FlMapBuilder *builder)
{
    return builder->size;
}

size_t fl_map_builder_count(const FlMapBuilder *builder)
{
    return builder->map->count;
}

size_t fl_map_builder_bytes(const FlMapBuilder *builder)
{
    return builder->bytes + builder->chunks_room * sizeof(Chunk);
}

FlMap *fl_map_builder_finish(FlMapBuilder *builder)
{
    FlMap *map = fl_map_ref(builder->map);
    size_t n = count_chunks(map);

    /* Maps live as long as the mount: free the spare memory. */
    if (n > 0)
        chunk_resize(&map->chunks[n - 1], chunk_count(map, n - 1));
    fl_map_builder_free(builder);
    map->chunks = g_renew(Chunk, map->chunks, n);
    return map;
}
