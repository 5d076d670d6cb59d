/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stock tools read the text views. Tests of tools that are not installed are skipped. */
#include "helper.h"

#include "view/ddrescue.h"
#include "view/pbm.h"
#include "view/raw.h"

#include <glib/gstdio.h>

typedef struct {
    char *dir;
    GRand *rand;
} Fixture;

static void set_up(Fixture *f, gconstpointer tool)
{
    f->rand = test_rand();
    f->dir = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    g_assert_nonnull(f->dir);
}

/* Skips the calling test if TOOL is missing. */
static bool missing(const char *tool)
{
    g_autofree char *found = g_find_program_in_path(tool);

    if (found == NULL)
        g_test_skip(tool);
    return found == NULL;
}

static void tear_down(Fixture *f, gconstpointer tool)
{
    GDir *dir = g_dir_open(f->dir, 0, NULL);

    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(f->dir, name, NULL);
        g_unlink(path);
    }
    g_dir_close(dir);
    g_rmdir(f->dir);
    g_free(f->dir);
    g_rand_free(f->rand);
}

static void write_file(Fixture *f, const char *name, const char *data, size_t length)
{
    g_autofree char *path = g_build_filename(f->dir, name, NULL);

    g_assert_true(g_file_set_contents(path, data, (gssize)length, NULL));
}

static char *read_file(Fixture *f, const char *name, size_t *length)
{
    g_autofree char *path = g_build_filename(f->dir, name, NULL);
    char *data = NULL;

    g_assert_true(g_file_get_contents(path, &data, length, NULL));
    return data;
}

static void write_view(Fixture *f, const char *name, const FlView *view)
{
    g_autofree char *text = view_text(view);

    write_file(f, name, text, view->size);
}

/* Runs a command line in the test's folder; it must succeed. Returns its output. */
static char *run(Fixture *f, const char *command)
{
    g_auto(GStrv) argv = g_strsplit(command, " ", -1);
    g_autoptr(GError) error = NULL;
    g_autofree char *err = NULL;
    char *out = NULL;
    int status;

    g_spawn_sync(f->dir, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, &err, &status, &error);
    g_assert_no_error(error);
    g_spawn_check_wait_status(status, &error);
    if (error != NULL)
        g_test_message("%s: %s%s", command, out, err);
    g_assert_no_error(error);
    return out;
}

static errint_t read_memory(void *opaque, void *buf, size_t length, uint64_t offset)
{
    memcpy(buf, (const char *)opaque + offset, length);
    return 0;
}

/* `ddrescue --domain-mapfile` brings an old image up to date from a dirty-only file, exactly. */
static void test_apply(Fixture *f, gconstpointer tool)
{
    if (missing(tool))
        return;
    for (unsigned round = 0; round < 12; round++) {
        uint64_t size = 1 + random_below(f->rand, 300000);
        g_autoptr(FlMap) alloc = random_map(f->rand, size, 1, 1 + size / 5, 4);
        g_autoptr(FlMap) dirty = random_map(f->rand, size, 1, 1 + size / 9, 2);
        g_autoptr(FlView) map_view = fl_view_ddrescue_new(dirty);
        g_autoptr(FlView) raw = fl_view_raw_new(alloc, dirty, size, 0, size);
        g_autofree char *disk = g_malloc(size), *old = g_malloc(size), *increment = g_malloc(size);
        g_autofree char *restored = NULL, *output = NULL;
        size_t length;

        for (uint64_t at = 0; at < size; at++) {
            uint32_t type = fl_map_get(alloc, fl_map_find(alloc, at)).type;
            bool changed = fl_map_get(dirty, fl_map_find(dirty, at)).type & FL_DIRTY;

            disk[at] = type & FL_ALLOC_ZERO ? 0 : (char)g_rand_int(f->rand);
            old[at] = changed ? (char)g_rand_int(f->rand) : disk[at];
        }
        fl_view_read(raw, increment, size, 0, read_memory, disk);
        write_file(f, "increment", increment, size);
        write_file(f, "full", old, size);
        write_view(f, "map", map_view);

        if (fl_map_bytes(dirty, FL_DIRTY, FL_DIRTY) > 0)
            output = run(f, "ddrescue --force --domain-mapfile=map increment full");
        restored = read_file(f, "full", &length);
        g_assert_cmpmem(restored, length, disk, size);
    }
}

/* The number of bytes with STATUS according to ddrescuelog. */
static uint64_t listed_bytes(Fixture *f, char status)
{
    g_autofree char *command =
        g_strdup_printf("ddrescuelog --block-size=1 --list-blocks=%c map", status);
    g_autofree char *out = run(f, command);
    uint64_t lines = 0;

    for (const char *p = out; *p != '\0'; p++)
        lines += *p == '\n';
    return lines;
}

static void test_log(Fixture *f, gconstpointer tool)
{
    static const uint64_t sizes[] = {0, 1, 511, 4097, UINT32_MAX, UINT64_C(1) << 40, INT64_MAX};

    if (missing(tool))
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(FlMap) dirty = random_map(f->rand, sizes[i], 1, 1 + sizes[i] / 4, 2);
        g_autoptr(FlView) view = fl_view_ddrescue_new(dirty);
        g_autofree char *out = NULL;

        write_view(f, "map", view);
        out = run(f, "ddrescuelog --show-status map");
        if (sizes[i] > 0 && sizes[i] < 10000) {
            g_assert_cmpuint(listed_bytes(f, '+'), ==, fl_map_bytes(dirty, FL_DIRTY, FL_DIRTY));
            g_assert_cmpuint(listed_bytes(f, '?'), ==, fl_map_bytes(dirty, FL_DIRTY, 0));
        }
    }
}

/* TEXT without comments and white space, in which netpbm may differ. */
static char *squeeze(const char *text)
{
    g_autoptr(GRegex) noise = g_regex_new("#.*|\\s+", 0, 0, NULL);

    return g_regex_replace_literal(noise, text, -1, 0, "", 0, NULL);
}

/* netpbm sees the same cells. */
static void test_picture(Fixture *f, gconstpointer tool)
{
    if (missing(tool))
        return;
    for (unsigned round = 0; round < 10; round++) {
        uint64_t size = random_below(f->rand, round % 2 == 0 ? 64 * 512 : 40000 * 512);
        g_autoptr(FlMap) dirty = random_map(f->rand, size, 512, 512 * 40, 2);
        g_autoptr(FlView) view = fl_view_pbm_new(dirty, 512, "qemu:dirty-bitmap:b0");
        g_autofree char *ours = view_text(view), *theirs = NULL;
        g_autofree char *ours_squeezed = squeeze(ours), *theirs_squeezed = NULL;

        write_view(f, "picture.pbm", view);
        theirs = run(f, "pnmtopnm -plain picture.pbm");
        theirs_squeezed = squeeze(theirs);
        g_assert_cmpstr(theirs_squeezed, ==, ours_squeezed);
    }
}

#define ADD(path, tool, func) g_test_add(path, Fixture, tool, set_up, func, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/tools/ddrescue", "ddrescue", test_apply);
    ADD("/tools/ddrescuelog", "ddrescuelog", test_log);
    ADD("/tools/netpbm", "pnmtopnm", test_picture);
    return g_test_run();
}
