/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "map/cover.h"

#include <string.h>

/* Maximum number of ranges in a chunk: small enough for insertion in the middle. */
#define CHUNK 256

typedef struct {
    uint64_t start, end;
} Range;

typedef struct {
    unsigned n; /* at least 1 */
    Range range[CHUNK];
} Chunk;

struct FlCover {
    GPtrArray *chunks; /* of Chunk, in order; no two ranges overlap or touch */
    size_t count;      /* of ranges */
    size_t max;
};

/* Position of a range: index of its chunk, and index within the chunk. */
typedef struct {
    unsigned chunk, i;
} Place;

FlCover *fl_cover_new(size_t max)
{
    FlCover *cover = g_new0(FlCover, 1);

    cover->chunks = g_ptr_array_new_with_free_func(g_free);
    cover->max = max;
    return cover;
}

void fl_cover_free(FlCover *cover)
{
    if (cover == NULL)
        return;
    g_ptr_array_unref(cover->chunks);
    g_free(cover);
}

/* NULL past the last range. */
static Range *range_at(const FlCover *cover, Place place)
{
    if (place.chunk >= cover->chunks->len)
        return NULL;
    return &((Chunk *)cover->chunks->pdata[place.chunk])->range[place.i];
}

/* The first range that ends at or after OFFSET. */
static Place find(const FlCover *cover, uint64_t offset)
{
    Place place = {0};
    unsigned low = 0, high = cover->chunks->len;
    const Chunk *chunk;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        chunk = cover->chunks->pdata[middle];
        if (chunk->range[chunk->n - 1].end < offset)
            low = middle + 1;
        else
            high = middle;
    }
    place.chunk = low;
    if (low == cover->chunks->len)
        return place;
    chunk = cover->chunks->pdata[low];
    high = chunk->n - 1;
    while (place.i < high) {
        unsigned middle = place.i + (high - place.i) / 2;
        if (chunk->range[middle].end < offset)
            place.i = middle + 1;
        else
            high = middle;
    }
    return place;
}

static Place next_place(const FlCover *cover, Place place)
{
    const Chunk *chunk = cover->chunks->pdata[place.chunk];

    return place.i + 1 < chunk->n ? (Place){place.chunk, place.i + 1} : (Place){place.chunk + 1, 0};
}

static void remove_at(FlCover *cover, Place place)
{
    Chunk *chunk = cover->chunks->pdata[place.chunk];

    cover->count--;
    if (--chunk->n == 0)
        g_ptr_array_remove_index(cover->chunks, place.chunk);
    else
        memmove(&chunk->range[place.i], &chunk->range[place.i + 1],
                (chunk->n - place.i) * sizeof(Range));
}

/* Inserts RANGE at PLACE, before the range that is there. */
static void insert_at(FlCover *cover, Place place, Range range)
{
    Chunk *chunk;

    cover->count++;
    if (place.chunk == cover->chunks->len) {
        /* Append to the last chunk if it has room: files are mostly read in order. */
        if (place.chunk == 0 || ((Chunk *)cover->chunks->pdata[place.chunk - 1])->n == CHUNK) {
            chunk = g_new(Chunk, 1);
            chunk->n = 0;
            g_ptr_array_add(cover->chunks, chunk);
        } else {
            place.chunk--;
        }
        chunk = cover->chunks->pdata[place.chunk];
        place.i = chunk->n;
    }
    chunk = cover->chunks->pdata[place.chunk];
    if (chunk->n == CHUNK) {
        Chunk *second = g_new(Chunk, 1);

        second->n = CHUNK / 2;
        chunk->n = CHUNK - second->n;
        memcpy(second->range, &chunk->range[chunk->n], second->n * sizeof(Range));
        g_ptr_array_insert(cover->chunks, (int)place.chunk + 1, second);
        if (place.i > chunk->n) {
            place.i -= chunk->n;
            chunk = second;
        }
    }
    memmove(&chunk->range[place.i + 1], &chunk->range[place.i],
            (chunk->n - place.i) * sizeof(Range));
    chunk->range[place.i] = range;
    chunk->n++;
}

void fl_cover_add(FlCover *cover, uint64_t start, uint64_t end)
{
    Place place, next;
    Range *range;
    const Range *more;

    if (start >= end)
        return;
    place = find(cover, start);
    range = range_at(cover, place);
    if (range == NULL || range->start > end) {
        if (cover->count < cover->max)
            insert_at(cover, place, (Range){start, end});
        return;
    }
    range->start = MIN(range->start, start);
    range->end = MAX(range->end, end);
    /* Merge the following ranges that this one now reaches. */
    while (next = next_place(cover, place),
           (more = range_at(cover, next)) != NULL && more->start <= range->end) {
        range->end = MAX(range->end, more->end);
        remove_at(cover, next);
    }
}

uint64_t fl_cover_bytes(const FlCover *cover, uint64_t start, uint64_t end)
{
    uint64_t bytes = 0, from, to = start;

    while (fl_cover_next(cover, to, &from, &to) && from < end)
        bytes += MIN(to, end) - MAX(from, start);
    return bytes;
}

bool fl_cover_next(const FlCover *cover, uint64_t offset, uint64_t *start, uint64_t *end)
{
    Place place = find(cover, offset);
    const Range *range = range_at(cover, place);

    if (range != NULL && range->end == offset)
        range = range_at(cover, next_place(cover, place));
    if (range == NULL)
        return false;
    *start = range->start;
    *end = range->end;
    return true;
}
