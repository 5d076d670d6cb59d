/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Logical volumes against a model with the location of each byte. */
#include "helper.h"

#include "view/volume.h"

#include <errno.h>

#define DISK_BYTES 4096u

typedef struct {
    uint32_t *types; /* NULL: there is no map */
    char disk[DISK_BYTES];
    uint64_t *at; /* of each byte of the volume, where it is on the disk */
    uint64_t size;
} Model;

static errint_t read_disk(void *opaque, void *buf, size_t length, uint64_t offset)
{
    const Model *model = opaque;

    g_assert_cmpuint(offset + length, <=, DISK_BYTES);
    for (uint64_t i = offset; model->types != NULL && i < offset + length; i++)
        g_assert_cmpuint(model->types[i] & FL_ALLOC_ZERO, ==, 0);
    memcpy(buf, model->disk + offset, length);
    return 0;
}

static bool is_data(const Model *model, uint64_t offset)
{
    return model->types == NULL || (model->types[model->at[offset]] & FL_ALLOC_ZERO) == 0;
}

static void assert_volume(const FlView *view, Model *model, GRand *rand)
{
    g_autofree char *whole = g_malloc(model->size), *part = g_malloc(model->size);
    uint64_t data = 0;

    g_assert_cmpuint(view->size, ==, model->size);
    g_assert_cmpint(fl_view_read(view, whole, model->size, 0, read_disk, model), ==, 0);
    for (uint64_t i = 0; i < model->size; i++) {
        uint64_t expected[2] = {i, i};

        g_assert_cmpint(whole[i], ==, is_data(model, i) ? model->disk[model->at[i]] : 0);
        data += is_data(model, i);
        for (int wanted = 0; wanted < 2; wanted++) {
            while (expected[wanted] < model->size && is_data(model, expected[wanted]) != wanted)
                expected[wanted]++;
        }
        g_assert_cmpint(fl_view_seek(view, (int64_t)i, false), ==, (int64_t)expected[0]);
        g_assert_cmpint(fl_view_seek(view, (int64_t)i, true), ==,
                        expected[1] == model->size ? -ENXIO : (int64_t)expected[1]);
    }
    g_assert_cmpuint(view->data_bytes, ==, data);
    for (unsigned i = 0; i < 20; i++) {
        uint64_t offset = random_below(rand, model->size);
        size_t length = 1 + random_below(rand, model->size - offset);

        g_assert_cmpint(fl_view_read(view, part, length, offset, read_disk, model), ==, 0);
        g_assert_cmpmem(part, length, whole + offset, length);
    }
}

/* Appends a random part to the volume, and the places of its bytes to the model. */
static FlVolumePart add_part(GRand *rand, Model *model)
{
    FlVolumePart part = {.n = 1 + (unsigned)random_below(rand, 4),
                         .stripe = 1 + random_below(rand, 40)};
    uint64_t rows = 1 + random_below(rand, 10);

    part.length = part.stripe * rows * part.n;
    part.areas = g_new(uint64_t, part.n);
    for (unsigned i = 0; i < part.n; i++)
        part.areas[i] = random_below(rand, DISK_BYTES - part.stripe * rows);
    model->at = g_renew(uint64_t, model->at, model->size + part.length);
    for (uint64_t row = 0; row < rows; row++) {
        for (unsigned i = 0; i < part.n; i++) {
            for (uint64_t j = 0; j < part.stripe; j++)
                model->at[model->size++] = part.areas[i] + row * part.stripe + j;
        }
    }
    return part;
}

static void test_random(void)
{
    g_autoptr(GRand) rand = test_rand();

    for (unsigned round = 0; round < 300; round++) {
        uint64_t longest = 1 + random_below(rand, 200);
        g_autoptr(FlMap) map = round % 5 == 0 ? NULL : random_map(rand, DISK_BYTES, 1, longest, 4);
        unsigned n = 1 + (unsigned)random_below(rand, 4);
        g_autofree FlVolumePart *parts = g_new(FlVolumePart, n);
        g_autoptr(FlView) view = NULL;
        Model model = {.types = map != NULL ? map_to_array(map) : NULL};

        for (size_t i = 0; i < DISK_BYTES; i++)
            model.disk[i] = (char)g_rand_int(rand);
        for (unsigned i = 0; i < n; i++)
            parts[i] = add_part(rand, &model);
        view = fl_view_volume_new(map, parts, n);
        for (unsigned i = 0; i < n; i++)
            g_free(parts[i].areas);
        assert_volume(view, &model, rand);
        g_free(model.types);
        g_free(model.at);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/volume/random", test_random);
    return g_test_run();
}
