/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Raw views against a small disk that is modelled byte by byte. */
#include "helper.h"

#include "view/raw.h"

#include <errno.h>

/* A disk, and the expected bytes of its file. */
typedef struct {
    uint64_t size, start, length;
    uint32_t *alloc, *dirty; /* types; NULL where there is no map */
    char *disk;
} Model;

static bool is_dirty(const Model *model, uint64_t at)
{
    return model->dirty == NULL || (model->dirty[at] & FL_DIRTY);
}

static bool is_zero(const Model *model, uint64_t at)
{
    return model->alloc != NULL && (model->alloc[at] & FL_ALLOC_ZERO);
}

static bool is_data(const Model *model, uint64_t at)
{
    return model->dirty != NULL ? is_dirty(model, at) : !is_zero(model, at);
}

static char byte_at(const Model *model, uint64_t at)
{
    return is_dirty(model, at) ? model->disk[at] : 0;
}

/* A server that has only the data that may be requested. */
static errint_t read_disk(void *opaque, void *buf, size_t length, uint64_t offset)
{
    const Model *model = opaque;

    g_assert_cmpuint(length, >, 0);
    g_assert_cmpuint(offset, >=, model->start);
    g_assert_cmpuint(offset + length, <=, model->start + model->length);
    for (uint64_t at = offset; at < offset + length; at++)
        g_assert_true(is_dirty(model, at) && !is_zero(model, at));
    memcpy(buf, model->disk + offset, length);
    return 0;
}

static bool same_range(const Model *model, uint64_t a, uint64_t b)
{
    return (model->alloc == NULL || model->alloc[a] == model->alloc[b]) &&
           (model->dirty == NULL || model->dirty[a] == model->dirty[b]);
}

/* Counts the ranges of the maps in [start, end). */
static unsigned count_ranges(const Model *model, uint64_t start, uint64_t end)
{
    unsigned n = 1;

    for (uint64_t at = start + 1; at < end; at++)
        n += !same_range(model, at - 1, at);
    return n;
}

static FlPieceKind kind_at(const Model *model, uint64_t at)
{
    if (!is_dirty(model, at))
        return FL_PIECE_HOLE;
    return is_zero(model, at) ? FL_PIECE_ZERO : FL_PIECE_DISK;
}

static void assert_pieces(const FlView *view, const Model *model)
{
    for (uint64_t offset = 0; offset < model->length; offset++) {
        FlPiece piece = fl_view_piece(view, offset);
        uint64_t at = model->start + offset;
        FlPieceKind kind = kind_at(model, at);

        g_assert_cmpint(piece.kind, ==, kind);
        g_assert_cmpuint(piece.start, ==, offset);
        g_assert_cmpuint(piece.end, >, offset);
        g_assert_cmpuint(piece.end, <=, model->length);
        if (kind != FL_PIECE_HOLE)
            g_assert_cmpuint(piece.disk_offset, ==, at);
        /* As long as possible, within the bound, because it limits the size of requests. */
        if (piece.end < model->length) {
            uint64_t next = model->start + piece.end;
            g_assert_true(kind != kind_at(model, next) || count_ranges(model, at, next) >= 64);
        }
    }
}

static void assert_seeks(const FlView *view, const Model *model)
{
    for (uint64_t offset = 0; offset < model->length; offset++) {
        for (unsigned data = 0; data < 2; data++) {
            uint64_t expected = offset;

            while (expected < model->length && is_data(model, model->start + expected) != data)
                expected++;
            g_assert_cmpint(fl_view_seek(view, (int64_t)offset, data), ==,
                            data && expected == model->length ? -ENXIO : (int64_t)expected);
        }
    }
    g_assert_cmpint(fl_view_seek(view, (int64_t)model->length, true), ==, -ENXIO);
    g_assert_cmpint(fl_view_seek(view, (int64_t)model->length, false), ==, -ENXIO);
    g_assert_cmpint(fl_view_seek(view, INT64_MAX, false), ==, -ENXIO);
    g_assert_cmpint(fl_view_seek(view, -1, true), ==, -ENXIO);
}

static void assert_reads(const FlView *view, Model *model, GRand *rand)
{
    g_autofree char *buf = g_malloc(model->length + 1);

    for (unsigned i = 0; i < 30; i++) {
        uint64_t offset = i == 0 ? 0 : random_below(rand, model->length + 1);
        uint64_t left = model->length - offset;
        size_t length = i == 0 ? left : random_below(rand, left + 1);

        memset(buf, '#', model->length + 1);
        g_assert_cmpint(fl_view_read(view, buf, length, offset, read_disk, model), ==, 0);
        for (size_t j = 0; j < length; j++)
            g_assert_cmpint(buf[j], ==, byte_at(model, model->start + offset + j));
        g_assert_cmpint(buf[length], ==, '#');
    }
}

static void assert_view(FlMap *alloc, FlMap *dirty, uint64_t size, uint64_t start, uint64_t length,
                        GRand *rand)
{
    g_autoptr(FlView) view = fl_view_raw_new(alloc, dirty, size, start, length);
    g_autofree uint32_t *alloc_types = alloc != NULL ? map_to_array(alloc) : NULL;
    g_autofree uint32_t *dirty_types = dirty != NULL ? map_to_array(dirty) : NULL;
    g_autofree char *disk = g_malloc(size + 1);
    Model model = {size, start, length, alloc_types, dirty_types, disk};
    uint64_t data = 0;

    for (uint64_t at = 0; at < size; at++)
        disk[at] = is_zero(&model, at) ? 0 : (char)g_rand_int_range(rand, 1, 128);
    for (uint64_t at = start; at < start + length; at++)
        data += is_data(&model, at);

    g_assert_cmpuint(view->size, ==, length);
    g_assert_cmpuint(view->data_bytes, ==, data);
    assert_pieces(view, &model);
    assert_seeks(view, &model);
    assert_reads(view, &model, rand);
}

static void assert_views(FlMap *alloc, FlMap *dirty, uint64_t size, GRand *rand)
{
    uint64_t start = random_below(rand, size + 1), length = random_below(rand, size - start + 1);

    for (unsigned maps = 0; maps < 4; maps++) {
        FlMap *a = maps & 1 ? alloc : NULL, *d = maps & 2 ? dirty : NULL;

        assert_view(a, d, size, 0, size, rand);
        assert_view(a, d, size, start, length, rand);
    }
}

static void test_random(void)
{
    g_autoptr(GRand) rand = test_rand();

    for (unsigned round = 0; round < 60; round++) {
        uint64_t size = 1 + random_below(rand, round % 10 == 0 ? 3000 : 300);
        g_autoptr(FlMap) alloc = random_map(rand, size, 1, 1 + random_below(rand, 100), 4);
        g_autoptr(FlMap) dirty = random_map(rand, size, 1, 1 + random_below(rand, 100), 2);

        assert_views(alloc, dirty, size, rand);
    }
}

static void test_uniform(void)
{
    g_autoptr(GRand) rand = test_rand();
    static const uint64_t sizes[] = {0, 1, 513};

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        for (uint32_t type = 0; type < 8; type++) {
            g_autoptr(FlMap) alloc = fl_map_new_uniform(sizes[i], type / 2);
            g_autoptr(FlMap) dirty = fl_map_new_uniform(sizes[i], type % 2);

            assert_views(alloc, dirty, sizes[i], rand);
        }
    }
}

/* 2^63-1 bytes: data, a hole, and one last byte of data. */
static void test_largest(void)
{
    const int64_t size = INT64_MAX;
    FlMapBuilder *build_alloc = fl_map_builder_new(), *build_dirty = fl_map_builder_new();
    g_autoptr(FlMap) alloc = NULL, dirty = NULL;
    g_autoptr(FlView) whole = NULL, increment = NULL, slice = NULL, plain = NULL;
    FlPiece piece;

    fl_map_builder_add(build_alloc, 4096, 0);
    fl_map_builder_add(build_alloc, INT64_MAX - 4097, FL_ALLOC_HOLE | FL_ALLOC_ZERO);
    fl_map_builder_add(build_alloc, 1, 0);
    alloc = fl_map_builder_finish(build_alloc);
    fl_map_builder_add(build_dirty, INT64_MAX - 2, 0);
    fl_map_builder_add(build_dirty, 2, FL_DIRTY);
    dirty = fl_map_builder_finish(build_dirty);

    whole = fl_view_raw_new(alloc, NULL, INT64_MAX, 0, INT64_MAX);
    g_assert_cmpuint(whole->size, ==, INT64_MAX);
    g_assert_cmpuint(whole->data_bytes, ==, 4097);
    g_assert_cmpint(fl_view_seek(whole, 4096, true), ==, size - 1);
    g_assert_cmpint(fl_view_seek(whole, size - 1, false), ==, size);
    piece = fl_view_piece(whole, INT64_MAX - 1);
    g_assert_cmpint(piece.kind, ==, FL_PIECE_DISK);
    g_assert_cmpuint(piece.end, ==, INT64_MAX);

    increment = fl_view_raw_new(alloc, dirty, INT64_MAX, 0, INT64_MAX);
    g_assert_cmpuint(increment->data_bytes, ==, 2);
    g_assert_cmpint(fl_view_seek(increment, 0, true), ==, size - 2);
    g_assert_cmpint(fl_view_piece(increment, 0).kind, ==, FL_PIECE_HOLE);
    /* Dirty and zero. */
    g_assert_cmpint(fl_view_piece(increment, INT64_MAX - 2).kind, ==, FL_PIECE_ZERO);
    g_assert_cmpint(fl_view_piece(increment, INT64_MAX - 1).kind, ==, FL_PIECE_DISK);

    slice = fl_view_raw_new(alloc, NULL, INT64_MAX, INT64_MAX - 2, 2);
    g_assert_cmpuint(slice->data_bytes, ==, 1);
    g_assert_cmpint(fl_view_seek(slice, 0, true), ==, 1);
    g_assert_cmpuint(fl_view_piece(slice, 1).disk_offset, ==, INT64_MAX - 1);

    plain = fl_view_raw_new(NULL, NULL, INT64_MAX, 0, INT64_MAX);
    g_assert_cmpuint(plain->data_bytes, ==, INT64_MAX);
    g_assert_cmpint(fl_view_seek(plain, 5, false), ==, size);
}

/* Pieces are bounded: a piece does not walk all extents that look the same to a reader. */
static void test_bounded(void)
{
    FlMapBuilder *builder = fl_map_builder_new();
    g_autoptr(FlMap) alloc = NULL;
    g_autoptr(FlView) view = NULL;
    uint64_t at = 0;

    for (uint32_t i = 0; i < 1000; i++)
        fl_map_builder_add(builder, 1 << 20, FL_ALLOC_ZERO | (i & FL_ALLOC_HOLE));
    alloc = fl_map_builder_finish(builder);
    view = fl_view_raw_new(alloc, NULL, fl_map_size(alloc), 0, fl_map_size(alloc));
    while (at < view->size) {
        FlPiece piece = fl_view_piece(view, at);

        g_assert_cmpint(piece.kind, ==, FL_PIECE_ZERO);
        g_assert_cmpuint(piece.end - at, <=, 64 << 20);
        at = piece.end;
    }
    g_assert_cmpuint(at, ==, view->size);
    g_assert_cmpint(fl_view_seek(view, 0, true), ==, -ENXIO);
}

static errint_t fail_read(void *opaque, void *buf, size_t length, uint64_t offset)
{
    return -EIO;
}

/* A disk's error is returned to the reader, except for reads of zeros only. */
static void test_read_error(void)
{
    FlMapBuilder *builder = fl_map_builder_new();
    g_autoptr(FlMap) alloc = NULL;
    g_autoptr(FlView) view = NULL;
    char buf[200];

    fl_map_builder_add(builder, 100, FL_ALLOC_ZERO);
    fl_map_builder_add(builder, 100, 0);
    alloc = fl_map_builder_finish(builder);
    view = fl_view_raw_new(alloc, NULL, 200, 0, 200);
    g_assert_cmpint(fl_view_read(view, buf, 100, 0, fail_read, NULL), ==, 0);
    g_assert_cmpint(fl_view_read(view, buf, 101, 0, fail_read, NULL), ==, -EIO);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/raw/random", test_random);
    g_test_add_func("/raw/uniform", test_uniform);
    g_test_add_func("/raw/largest", test_largest);
    g_test_add_func("/raw/bounded", test_bounded);
    g_test_add_func("/raw/read-error", test_read_error);
    return g_test_run();
}
