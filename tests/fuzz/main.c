/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs a fuzzer without libFuzzer, on the inputs in the given folder and on variations of them. */
#include "fuzz.h"

#include <glib.h>
#include <stdlib.h>

#define VARIATIONS 500

/* Replaces some bytes of DATA, and truncates it or repeats its end. */
static void vary(GRand *rand, GByteArray *data)
{
    guint cuts = (guint)g_rand_int_range(rand, 0, 3);

    for (gint32 n = g_rand_int_range(rand, 1, 8); n > 0 && data->len > 0; n--)
        data->data[g_rand_int_range(rand, 0, (gint32)data->len)] = (guint8)g_rand_int(rand);
    if (cuts == 0 && data->len > 0) {
        g_byte_array_set_size(data, (guint)g_rand_int_range(rand, 0, (gint32)data->len));
    } else if (cuts == 1) {
        g_autofree guint8 *copy = g_memdup2(data->data, data->len);
        g_byte_array_append(data, copy, data->len);
    }
}

static void run_file(const char *path, GRand *rand)
{
    g_autofree char *text = NULL;
    gsize length;

    g_assert_true(g_file_get_contents(path, &text, &length, NULL));
    LLVMFuzzerTestOneInput((const uint8_t *)text, length);
    for (unsigned i = 0; i < VARIATIONS; i++) {
        g_autoptr(GByteArray) data = g_byte_array_new();

        g_byte_array_append(data, (const guint8 *)text, (guint)length);
        vary(rand, data);
        LLVMFuzzerTestOneInput(data->data, data->len);
    }
}

int main(int argc, char **argv)
{
    const char *given = g_getenv("SEED");
    guint32 seed = given != NULL ? (guint32)strtoul(given, NULL, 10) : g_random_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_autoptr(GDir) corpus = argc > 1 ? g_dir_open(argv[1], 0, NULL) : NULL;
    const char *name;

    g_print("SEED=%u\n", seed);
    g_assert_nonnull(corpus);
    while ((name = g_dir_read_name(corpus)) != NULL) {
        g_autofree char *path = g_build_filename(argv[1], name, NULL);
        g_print("%s\n", name);
        run_file(path, rand);
    }
    return 0;
}
