/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pictures of dirty bitmaps against a model that computes single cells. */
#include "helper.h"

#include "util/size.h"
#include "view/pbm.h"

#include <stdio.h>

typedef struct {
    uint64_t cell, width, height;
    char *cells; /* without the newlines; owned */
} Picture;

/* Reads the file as a netpbm tool would, and checks what the header promises. */
static Picture parse(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    guint n = g_strv_length(lines), at = 1;
    GString *cells = g_string_new(NULL);
    Picture picture = {0};

    g_assert_cmpstr(lines[0], ==, "P1");
    g_assert_true(g_str_has_prefix(lines[1], "# cell "));
    picture.cell = g_ascii_strtoull(lines[1] + strlen("# cell "), NULL, 10);
    while (lines[at][0] == '#')
        at++;
    g_assert_cmpint(sscanf(lines[at], "%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT, &picture.width,
                           &picture.height),
                    ==, 2);
    g_assert_cmpstr(lines[n - 1], ==, "");
    for (guint i = 0; i < n - 1; i++)
        g_assert_cmpuint(strlen(lines[i]), <=, 70);
    for (guint i = at + 1; i < n - 1; i++) {
        g_assert_cmpuint(strlen(lines[i]), ==, MIN(picture.width, 64));
        g_string_append(cells, lines[i]);
    }
    g_assert_cmpuint(cells->len, ==, picture.width * picture.height);
    picture.cells = g_string_free(cells, FALSE);
    return picture;
}

static char model_cell(const FlMap *dirty, uint64_t cell, uint64_t index)
{
    uint64_t size = fl_map_size(dirty), start = index * cell, end;

    if (index >= fl_div_up(size, cell))
        return '0';
    end = size - start < cell ? size : start + cell;
    for (size_t i = fl_map_find(dirty, start); i < fl_map_count(dirty); i++) {
        FlExtent e = fl_map_get(dirty, i);
        if (e.start >= end)
            break;
        if (e.type & FL_DIRTY)
            return '1';
    }
    return '0';
}

static void assert_picture(FlMap *dirty, uint64_t granularity, uint64_t cell, GRand *rand)
{
    g_autoptr(FlView) view = fl_view_pbm_new(dirty, granularity, "qemu:dirty-bitmap:b0");
    g_autofree char *text = view_text(view);
    Picture picture = parse(text);
    uint64_t cells = fl_div_up(fl_map_size(dirty), cell);

    g_assert_cmpuint(picture.cell, ==, cell);
    g_assert_cmpuint(cells, <=, FL_PBM_CELLS_MAX);
    if (cells <= 64) {
        g_assert_cmpuint(picture.width, ==, MAX(cells, 1));
        g_assert_cmpuint(picture.height, ==, 1);
    } else {
        g_assert_cmpuint(picture.width % 64, ==, 0);
        g_assert_cmpuint(picture.height, ==, fl_div_up(cells, picture.width));
        g_assert_cmpuint(picture.height, <=, picture.width);
        g_assert_cmpuint(picture.width, <=, picture.height + 127);
    }
    for (uint64_t i = 0; i < picture.width * picture.height; i++)
        g_assert_cmpint(picture.cells[i], ==, model_cell(dirty, cell, i));
    assert_text_view(view, text, rand);
    g_free(picture.cells);
}

static void test_random(void)
{
    g_autoptr(GRand) rand = test_rand();
    static const uint64_t granularities[] = {512, 4096, 65536, 1 << 20};

    for (unsigned i = 0; i < 60; i++) {
        uint64_t granularity = granularities[i % G_N_ELEMENTS(granularities)];
        uint64_t cells = 1 + random_below(rand, i % 3 == 0 ? 64 : 20000);
        uint64_t size = cells * granularity - random_below(rand, granularity);
        uint64_t longest = granularity * (1 + random_below(rand, 300));
        g_autoptr(FlMap) dirty = random_map(rand, size, granularity, longest, 2);

        assert_picture(dirty, granularity, granularity, rand);
    }
}

/* Changes not aligned to the granularity blacken every cell that they touch. */
static void test_odd(void)
{
    g_autoptr(GRand) rand = test_rand();

    for (unsigned i = 0; i < 20; i++) {
        uint64_t size = 1 + random_below(rand, 4 << 20);
        g_autoptr(FlMap) dirty = random_map(rand, size, 1, 1 + random_below(rand, 9000), 2);

        assert_picture(dirty, 512, 512, rand);
        assert_picture(dirty, 3000, 3000, rand);
    }
}

static FlMap *two_extents(uint64_t boundary, uint64_t size)
{
    FlMapBuilder *builder = fl_map_builder_new();

    g_assert_cmpint(fl_map_builder_add(builder, boundary, 1), ==, 0);
    g_assert_cmpint(fl_map_builder_add(builder, size - boundary, 0), ==, 0);
    return fl_map_builder_finish(builder);
}

static void test_guess(void)
{
    g_autoptr(GRand) rand = test_rand();
    static const struct {
        uint64_t boundary, cell;
    } cases[] = {{65536, 65536},   {131072, 65536}, {32768, 32768}, {65536 + 4096, 4096},
                 {1024 * 7, 1024}, {512, 512},      {256, 512},     {1, 512}};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(FlMap) dirty = two_extents(cases[i].boundary, (1 << 20) + 1);
        assert_picture(dirty, 0, cases[i].cell, rand);
    }
}

static void test_merged(void)
{
    g_autoptr(GRand) rand = test_rand();
    g_autoptr(FlMap) full = fl_map_new_uniform((1 << 29) + 1, 1);
    g_autoptr(FlMap) largest = two_extents(65536, INT64_MAX);
    g_autoptr(FlMap) dense = random_map(rand, 3u << 29, 512, 65536, 2);

    /* One granule more than fits. */
    assert_picture(full, 512, 1024, rand);
    assert_picture(largest, 0, UINT64_C(1) << 43, rand);
    assert_picture(dense, 512, 2048, rand);
}

static void test_empty_disk(void)
{
    g_autoptr(GRand) rand = test_rand();
    g_autoptr(FlMap) dirty = fl_map_new_uniform(0, 0);
    g_autoptr(FlView) view = fl_view_pbm_new(dirty, 65536, "qemu:dirty-bitmap:b0");

    assert_text_view(view, "P1\n# cell 65536, disk 0, qemu:dirty-bitmap:b0\n1 1\n0\n", rand);
}

static void test_hostile_context(void)
{
    g_autoptr(FlMap) dirty = fl_map_new_uniform(512, 1);
    GString *context = g_string_new("qemu:dirty-bitmap:\n2 2\n\r1111");

    for (int c = 1; c < 256; c++)
        g_string_append_c(context, (char)c);
    while (context->len < 4096)
        g_string_append_c(context, 'x');
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(FlView) view =
            fl_view_pbm_new(dirty, 512, i == 0 ? context->str : "\n# a\n1 1\n0");
        g_autofree char *text = view_text(view);
        Picture picture = parse(text);

        g_assert_cmpuint(picture.width, ==, 1);
        g_assert_cmpstr(picture.cells, ==, "1");
        g_free(picture.cells);
    }
    g_string_free(context, TRUE);
}

/* A name that would make the line too long gets a separate line, unabridged. */
static void test_long_context(void)
{
    g_autoptr(GRand) rand = test_rand();
    g_autoptr(FlMap) dirty = fl_map_new_uniform(512, 1);
    g_autoptr(FlView) view =
        fl_view_pbm_new(dirty, 0, "qemu:dirty-bitmap:fleecefs.last.20240229T235959Z-0123456789");

    assert_text_view(view,
                     "P1\n# cell 65536, disk 512\n"
                     "# qemu:dirty-bitmap:fleecefs.last.20240229T235959Z-0123456789\n1 1\n1\n",
                     rand);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pbm/random", test_random);
    g_test_add_func("/pbm/odd", test_odd);
    g_test_add_func("/pbm/guess", test_guess);
    g_test_add_func("/pbm/merged", test_merged);
    g_test_add_func("/pbm/empty-disk", test_empty_disk);
    g_test_add_func("/pbm/hostile-context", test_hostile_context);
    g_test_add_func("/pbm/long-context", test_long_context);
    return g_test_run();
}
