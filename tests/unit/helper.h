/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by unit tests of maps and views: random maps, and reading views in all ways. */
#pragma once

#include "map/map.h"
#include "view/view.h"

#include <stdlib.h>
#include <string.h>

/* Random numbers from $SEED, else from a new seed, which is printed to reproduce failures. */
static inline GRand *test_rand(void)
{
    const char *given = g_getenv("SEED");
    guint32 seed = given != NULL ? (guint32)strtoul(given, NULL, 10) : g_random_int();

    g_test_message("SEED=%u", seed);
    return g_rand_new_with_seed(seed);
}

/* A random number in [0, LIMIT); 0 if LIMIT is 0. */
static inline uint64_t random_below(GRand *rand, uint64_t limit)
{
    uint64_t n = ((uint64_t)g_rand_int(rand) << 32) | g_rand_int(rand);

    return limit == 0 ? 0 : n % limit;
}

/* A random map of SIZE bytes; ranges are multiples of GRANULE up to LENGTH_MAX (except the last),
 * with types below TYPES. */
static inline FlMap *random_map(GRand *rand, uint64_t size, uint64_t granule, uint64_t length_max,
                                uint32_t types)
{
    FlMapBuilder *builder = fl_map_builder_new();

    while (fl_map_builder_size(builder) < size) {
        uint64_t length = granule * (1 + random_below(rand, length_max / granule));
        uint64_t left = size - fl_map_builder_size(builder);

        g_assert_cmpint(
            fl_map_builder_add(builder, MIN(length, left), (uint32_t)random_below(rand, types)), ==,
            0);
    }
    return fl_map_builder_finish(builder);
}

/* The naive model of MAP: a type for each byte. */
static inline uint32_t *map_to_array(const FlMap *map)
{
    uint32_t *types = g_new(uint32_t, fl_map_size(map) + 1);

    for (size_t i = 0; i < fl_map_count(map); i++) {
        FlExtent e = fl_map_get(map, i);
        for (uint64_t at = e.start; at < e.end; at++)
            types[at] = e.type;
    }
    return types;
}

/* Reads a whole text view at once; NUL-terminated. */
static inline char *view_text(const FlView *view)
{
    char *text = g_malloc(view->size + 1);

    g_assert_cmpint(fl_view_read(view, text, view->size, 0, NULL, NULL), ==, 0);
    text[view->size] = '\0';
    return text;
}

/* Asserts that VIEW is exactly EXPECTED: its size, read at once, byte by byte from some offset on,
 * and at random offsets and lengths; that it is all data, and that reads stay within the buffer. */
static inline void assert_text_view(const FlView *view, const char *expected, GRand *rand)
{
    g_autofree char *whole = view_text(view);
    g_autofree char *buf = g_malloc(view->size + 2);

    g_assert_cmpstr(whole, ==, expected);
    g_assert_cmpuint(view->size, ==, strlen(expected));
    g_assert_cmpuint(view->data_bytes, ==, view->size);
    if (view->size == 0)
        return;

    g_assert_cmpint(fl_view_seek(view, 0, true), ==, 0);
    g_assert_cmpint(fl_view_seek(view, 0, false), ==, (int64_t)view->size);
    for (unsigned i = 0; i < 50; i++) {
        uint64_t offset = random_below(rand, view->size);
        size_t left = view->size - offset;
        size_t length =
            i % 4 == 0 ? left : 1 + random_below(rand, i % 4 == 1 ? MIN(left, 3) : left);
        FlPiece piece = fl_view_piece(view, offset);

        g_assert_cmpint(piece.kind, ==, FL_PIECE_MADE);
        g_assert_cmpuint(piece.start, ==, offset);
        g_assert_cmpuint(piece.end, ==, view->size);
        memset(buf, '#', view->size + 2);
        fl_view_make(view, buf + 1, length, offset);
        g_assert_cmpmem(buf + 1, length, expected + offset, length);
        g_assert_cmpint(buf[0], ==, '#');
        g_assert_cmpint(buf[1 + length], ==, '#');
    }
}
