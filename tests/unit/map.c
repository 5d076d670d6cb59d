/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Maps and joins against an array with a type per byte. */
#include "helper.h"
#include "map/cover.h"

#include "map/join.h"

#include <errno.h>

/* Extents cover the whole map, in order, and neighbours differ. */
static void assert_well_formed(const FlMap *map)
{
    uint64_t at = 0;

    for (size_t i = 0; i < fl_map_count(map); i++) {
        FlExtent e = fl_map_get(map, i);

        g_assert_cmpuint(e.start, ==, at);
        g_assert_cmpuint(e.end, >, e.start);
        if (i > 0)
            g_assert_cmpuint(e.type, !=, fl_map_get(map, i - 1).type);
        at = e.end;
    }
    g_assert_cmpuint(fl_map_size(map), ==, at);
}

static void test_build(void)
{
    g_autoptr(GRand) rand = test_rand();

    for (unsigned round = 0; round < 200; round++) {
        FlMapBuilder *builder = fl_map_builder_new();
        g_autoptr(FlMap) map = NULL;
        g_autoptr(GArray) model = g_array_new(FALSE, FALSE, sizeof(uint32_t));
        unsigned adds = (unsigned)random_below(rand, 200);
        uint64_t per_type[4] = {0};

        for (unsigned i = 0; i < adds; i++) {
            uint64_t length = random_below(rand, 20);
            uint32_t type = (uint32_t)random_below(rand, 4);

            g_assert_cmpint(fl_map_builder_add(builder, length, type), ==, 0);
            for (uint64_t j = 0; j < length; j++)
                g_array_append_val(model, type);
            g_assert_cmpuint(fl_map_builder_size(builder), ==, model->len);
        }

        size_t count = fl_map_builder_count(builder);
        map = fl_map_builder_finish(builder);
        g_assert_cmpuint(fl_map_count(map), ==, count);
        g_assert_cmpuint(fl_map_size(map), ==, model->len);
        assert_well_formed(map);
        for (guint at = 0; at < model->len; at++) {
            FlExtent e = fl_map_get(map, fl_map_find(map, at));

            g_assert_cmpuint(e.start, <=, at);
            g_assert_cmpuint(e.end, >, at);
            g_assert_cmpuint(e.type, ==, g_array_index(model, uint32_t, at));
            per_type[e.type]++;
        }
        for (uint32_t type = 0; type < 4; type++)
            g_assert_cmpuint(fl_map_bytes(map, UINT32_MAX, type), ==, per_type[type]);
        g_assert_cmpuint(fl_map_bytes(map, 1, 1), ==, per_type[1] + per_type[3]);
    }
}

/* Assembles maps from parts of any size, taking and adding in any order; also with more extents
 * than are moved at once. */
static void test_take(void)
{
    g_autoptr(GRand) rand = test_rand();

    for (unsigned round = 0; round < 303; round++) {
        bool large = round >= 300;
        uint64_t size = large ? 300000 : random_below(rand, 300);
        g_autoptr(FlMap) map = random_map(rand, size, 1, large ? 1 : 30, 3);
        g_autofree uint32_t *types = map_to_array(map);
        FlMapBuilder *builder = fl_map_builder_new();
        g_autoptr(FlMap) joined = NULL;

        for (uint64_t at = 0; at < size;) {
            uint64_t end = at + 1 + random_below(rand, MIN(size - at, large ? size : 40));
            FlMapBuilder *part = fl_map_builder_new();

            if (random_below(rand, 2) == 0)
                end = at;
            for (; at < end; at++)
                fl_map_builder_add(part, 1, types[at]);
            g_assert_cmpint(fl_map_builder_take(builder, part), ==, 0);
            if (at < size && random_below(rand, 2) == 0) {
                fl_map_builder_add(builder, 1, types[at]);
                at++;
            }
        }
        joined = fl_map_builder_finish(builder);
        assert_well_formed(joined);
        g_assert_true(fl_map_equal(map, joined));
    }
}

static FlMap *map_from_array(const uint32_t *types, uint64_t size)
{
    FlMapBuilder *builder = fl_map_builder_new();

    for (uint64_t at = 0; at < size; at++)
        fl_map_builder_add(builder, 1, types[at]);
    return fl_map_builder_finish(builder);
}

static void test_equal(void)
{
    g_autoptr(GRand) rand = test_rand();

    for (unsigned round = 0; round < 100; round++) {
        uint64_t size = 1 + random_below(rand, 300), at = random_below(rand, size);
        g_autoptr(FlMap) map = random_map(rand, size, 1, 30, 3);
        g_autofree uint32_t *types = map_to_array(map);
        g_autoptr(FlMap) same = map_from_array(types, size), shorter = map_from_array(types, at);
        g_autoptr(FlMap) other = NULL;

        types[at]++;
        other = map_from_array(types, size);
        g_assert_true(fl_map_equal(map, same));
        g_assert_false(fl_map_equal(map, shorter));
        g_assert_false(fl_map_equal(map, other));
    }
}

static void test_limits(void)
{
    g_autoptr(FlMapBuilder) builder = fl_map_builder_new();
    g_autoptr(FlMap) empty = fl_map_new_uniform(0, 7);
    g_autoptr(FlMap) one = fl_map_new_uniform(1, 7);
    g_autoptr(FlMap) largest = fl_map_new_uniform(INT64_MAX, UINT32_MAX);

    g_assert_cmpuint(fl_map_count(empty), ==, 0);
    g_assert_cmpuint(fl_map_size(empty), ==, 0);
    g_assert_cmpuint(fl_map_bytes(empty, 0, 0), ==, 0);
    g_assert_true(fl_map_equal(empty, empty));
    g_assert_false(fl_map_equal(empty, one));
    g_assert_cmpuint(fl_map_get(largest, fl_map_find(largest, INT64_MAX - 1)).end, ==, INT64_MAX);
    g_assert_cmpuint(fl_map_bytes(largest, UINT32_MAX, UINT32_MAX), ==, INT64_MAX);

    g_assert_cmpint(fl_map_builder_add(builder, (uint64_t)INT64_MAX + 1, 0), ==, -EOVERFLOW);
    g_assert_cmpint(fl_map_builder_add(builder, UINT64_MAX, 0), ==, -EOVERFLOW);
    g_assert_cmpint(fl_map_builder_add(builder, INT64_MAX - 1, 0), ==, 0);
    g_assert_cmpint(fl_map_builder_add(builder, 2, 1), ==, -EOVERFLOW);
    g_assert_cmpint(fl_map_builder_add(builder, 2, 0), ==, -EOVERFLOW);
    g_assert_cmpint(fl_map_builder_add(builder, 1, 1), ==, 0);
    g_assert_cmpint(fl_map_builder_add(builder, 1, 0), ==, -EOVERFLOW);
    g_assert_cmpint(fl_map_builder_add(builder, 0, 0), ==, 0);
    g_assert_cmpuint(fl_map_builder_size(builder), ==, INT64_MAX);
    g_assert_cmpuint(fl_map_builder_count(builder), ==, 2);
}

/* Aligned to sectors or not, with types of any width, in more extents than one chunk holds. */
static void test_many(void)
{
    static const uint64_t units[] = {1, 512, 4096, UINT64_C(1) << 33};
    g_autoptr(GRand) rand = test_rand();

    for (unsigned round = 0; round < 40; round++) {
        FlMapBuilder *builder = fl_map_builder_new(), *part = fl_map_builder_new();
        g_autoptr(GArray) model = g_array_new(FALSE, FALSE, sizeof(FlExtent));
        g_autoptr(FlMap) map = NULL;
        bool odd = random_below(rand, 2) == 0, large = random_below(rand, 2) == 0;
        uint64_t at = 0;

        for (unsigned i = 0; i < 5000; i++) {
            uint64_t unit = odd && random_below(rand, 500) == 0 ? 1 : units[1 + round % 3];
            FlExtent e = {.start = at, .end = at + unit * (1 + random_below(rand, 3))};

            e.type = large && random_below(rand, 500) == 0 ? 1000 + i : i % 2;
            if (i > 0 && g_array_index(model, FlExtent, i - 1).type == e.type)
                e.type += 2;
            g_array_append_val(model, e);
            at = e.end;
            g_assert_cmpint(fl_map_builder_add(i < 2500 ? builder : part, e.end - e.start, e.type),
                            ==, 0);
        }
        g_assert_cmpint(fl_map_builder_take(builder, part), ==, 0);
        if (!odd && !large && round % 3 < 2)
            g_assert_cmpuint(fl_map_builder_bytes(builder), <, 40000);
        g_assert_cmpuint(fl_map_builder_bytes(builder), <, 80000);
        map = fl_map_builder_finish(builder);
        g_assert_cmpuint(fl_map_count(map), ==, model->len);
        for (guint i = 0; i < model->len; i++) {
            FlExtent e = g_array_index(model, FlExtent, i), found = fl_map_get(map, i);

            g_assert_cmpuint(found.start, ==, e.start);
            g_assert_cmpuint(found.end, ==, e.end);
            g_assert_cmpuint(found.type, ==, e.type);
            g_assert_cmpuint(fl_map_find(map, e.start), ==, i);
            g_assert_cmpuint(fl_map_find(map, e.end - 1), ==, i);
        }
    }
}

static FlRange model_at(const uint32_t *alloc, const uint32_t *dirty, uint64_t at)
{
    return (FlRange){
        .dirty = dirty == NULL || (dirty[at] & FL_DIRTY) != 0,
        .zero = alloc != NULL && (alloc[at] & FL_ALLOC_ZERO) != 0,
        .hole = alloc != NULL && (alloc[at] & FL_ALLOC_HOLE) != 0,
    };
}

static bool same(const FlRange *a, const FlRange *b, unsigned by)
{
    return (!(by & FL_JOIN_DIRTY) || a->dirty == b->dirty) &&
           (!(by & FL_JOIN_ZERO) || a->zero == b->zero) &&
           (!(by & FL_JOIN_HOLE) || a->hole == b->hole);
}

static void assert_join(const FlMap *alloc, const FlMap *dirty, uint64_t size, uint64_t offset,
                        unsigned by)
{
    g_autofree uint32_t *alloc_model = alloc != NULL ? map_to_array(alloc) : NULL;
    g_autofree uint32_t *dirty_model = dirty != NULL ? map_to_array(dirty) : NULL;
    uint64_t at = offset;
    FlJoin join;
    FlRange range;

    fl_join_init(&join, alloc, dirty, size, offset, by);
    while (fl_join_next(&join, &range)) {
        FlRange first = model_at(alloc_model, dirty_model, at);
        uint64_t end = at;

        for (; end < size; end++) {
            FlRange here = model_at(alloc_model, dirty_model, end);
            if (!same(&first, &here, by))
                break;
        }
        g_assert_cmpuint(range.start, ==, at);
        g_assert_cmpuint(range.end, ==, end);
        g_assert_cmpint(range.dirty, ==, first.dirty);
        g_assert_cmpint(range.zero, ==, first.zero);
        g_assert_cmpint(range.hole, ==, first.hole);
        at = end;
    }
    g_assert_cmpuint(at, ==, size);
    g_assert_false(fl_join_next(&join, &range));
}

static void test_join(void)
{
    g_autoptr(GRand) rand = test_rand();

    for (unsigned round = 0; round < 100; round++) {
        uint64_t size = random_below(rand, 400);
        g_autoptr(FlMap) alloc = random_map(rand, size, 1, 1 + random_below(rand, 40), 6);
        g_autoptr(FlMap) dirty = random_map(rand, size, 1, 1 + random_below(rand, 40), 3);

        for (unsigned by = 0; by < 8; by++) {
            uint64_t offset = by == 0 ? 0 : random_below(rand, size + 1);

            assert_join(alloc, dirty, size, offset, by);
            assert_join(alloc, NULL, size, offset, by);
            assert_join(NULL, dirty, size, offset, by);
            assert_join(NULL, NULL, size, offset, by);
        }
    }
}

/* Against a model with a byte per byte. */
static void test_cover(void)
{
    g_autoptr(GRand) rand = test_rand();
    bool model[256] = {false};
    g_autoptr(FlCover) cover = fl_cover_new(SIZE_MAX);

    for (unsigned round = 0; round < 60; round++) {
        uint64_t from = random_below(rand, sizeof model), to = from + random_below(rand, 12);
        uint64_t start, end = 0, bytes = 0, expected = 0;

        to = MIN(to, sizeof model);
        for (uint64_t i = from; i < to; i++)
            model[i] = true;
        fl_cover_add(cover, from, to);
        while (fl_cover_next(cover, end, &start, &end)) {
            for (uint64_t i = start; i < end; i++)
                g_assert_true(model[i]);
            g_assert_true(start == 0 || !model[start - 1]);
            bytes += end - start;
        }
        for (uint64_t i = 0; i < sizeof model; i++)
            expected += model[i];
        g_assert_cmpuint(bytes, ==, expected);
        g_assert_cmpuint(fl_cover_bytes(cover, 0, sizeof model), ==, expected);
        g_assert_cmpuint(fl_cover_bytes(cover, from, to), ==, to - from);
    }
}

/* A full set merges ranges but adds no new ones: it may lack bytes, but never has wrong ones. */
static void test_cover_full(void)
{
    g_autoptr(FlCover) cover = fl_cover_new(1000);

    for (uint64_t i = 0; i < 2000; i++)
        fl_cover_add(cover, i * 10, i * 10 + 5);
    g_assert_cmpuint(fl_cover_bytes(cover, 0, UINT64_MAX), ==, 5000);
    fl_cover_add(cover, 5, 10);
    g_assert_cmpuint(fl_cover_bytes(cover, 0, UINT64_MAX), ==, 5005);
    fl_cover_add(cover, 19990, 19995);
    g_assert_cmpuint(fl_cover_bytes(cover, 0, UINT64_MAX), ==, 5010);
    g_assert_cmpuint(fl_cover_bytes(cover, 10000, 19990), ==, 0);
}

/* Many ranges, in an order that fills and splits chunks anywhere. */
static void test_cover_many(void)
{
    enum { N = 1 << 16 };
    g_autoptr(GRand) rand = test_rand();
    g_autofree uint8_t *model = g_new0(uint8_t, N);
    g_autoptr(FlCover) cover = fl_cover_new(SIZE_MAX);
    uint64_t expected = 0, start, end = 0, bytes = 0, last = 0;

    for (unsigned round = 0; round < N / 3; round++) {
        uint64_t from = random_below(rand, N),
                 to = from + 1 + random_below(rand, round % 64 ? 2 : 300);

        to = MIN(to, N);
        memset(model + from, 1, to - from);
        fl_cover_add(cover, from, to);
    }
    for (unsigned i = 0; i < N; i++)
        expected += model[i];
    while (fl_cover_next(cover, end, &start, &end)) {
        g_assert_true(bytes == 0 || start > last);
        g_assert_true(memchr(model + start, 0, end - start) == NULL);
        bytes += end - start;
        last = end;
    }
    g_assert_cmpuint(bytes, ==, expected);
    g_assert_cmpuint(fl_cover_bytes(cover, 0, N), ==, expected);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/map/build", test_build);
    g_test_add_func("/map/take", test_take);
    g_test_add_func("/map/equal", test_equal);
    g_test_add_func("/map/limits", test_limits);
    g_test_add_func("/map/many", test_many);
    g_test_add_func("/map/join", test_join);
    g_test_add_func("/map/cover", test_cover);
    g_test_add_func("/map/cover/full", test_cover_full);
    g_test_add_func("/map/cover/many", test_cover_many);
    return g_test_run();
}
