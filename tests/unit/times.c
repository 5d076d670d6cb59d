/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The times of pieces: the rule, the notes, and the clock, each by itself. */
#include "helper.h"
#include "map/times.h"
#include "snapshot/piece-clock.h"
#include "snapshot/piece-notes.h"

#include <glib/gstdio.h>
#include <utime.h>

/* The rule, piece by piece. */
static void test_rule(void)
{
    g_autoptr(GRand) rand = test_rand();

    for (unsigned round = 0; round < 500; round++) {
        uint64_t size = 1 + random_below(rand, 200), piece = 1 + random_below(rand, 20);
        uint64_t count = (size - 1) / piece + 1;
        g_autoptr(FlTimes) times = fl_times_next(NULL, NULL, size, piece, (struct timespec){5, 7});
        g_autofree gint64 *model = g_new(gint64, count);

        for (uint64_t i = 0; i < count; i++)
            model[i] = 5;
        for (gint64 second = 6; second < 12; second++) {
            g_autoptr(FlMap) dirty = random_map(rand, size, 1, 40, 2);
            g_autofree uint32_t *types = map_to_array(dirty);
            struct timespec now = {second, 7};
            FlTimes *next = fl_times_next(times, dirty, size, piece, now);
            g_autoptr(GString) text = g_string_new(NULL);
            g_autoptr(FlTimes) again = NULL;

            for (uint64_t at = 0; at < size; at++) {
                if (types[at] != 0)
                    model[at / piece] = second;
            }
            fl_times_free(times);
            times = next;
            fl_times_print(times, text);
            again = fl_times_parse(text->str, size, piece);
            g_assert_nonnull(again);
            for (uint64_t i = 0; i < count; i++) {
                g_assert_cmpint(fl_times_get(times, i).tv_sec, ==, model[i]);
                g_assert_cmpint(fl_times_get(again, i).tv_sec, ==, model[i]);
                g_assert_cmpint(fl_times_get(again, i).tv_nsec, ==, 7);
            }
        }
    }
}

/* Ignores times that are not earlier, or for other sizes. */
static void test_not_fitting(void)
{
    g_autoptr(FlTimes) last = fl_times_next(NULL, NULL, 100, 10, (struct timespec){50, 0});
    g_autoptr(FlMap) clean = fl_map_new_uniform(100, 0), longer = fl_map_new_uniform(101, 0);
    g_autoptr(FlTimes) kept = fl_times_next(last, clean, 100, 10, (struct timespec){51, 0});
    g_autoptr(FlTimes) back = fl_times_next(last, clean, 100, 10, (struct timespec){50, 5});
    g_autoptr(FlTimes) pieces = fl_times_next(last, clean, 100, 20, (struct timespec){51, 0});
    g_autoptr(FlTimes) size = fl_times_next(last, longer, 101, 10, (struct timespec){51, 0});

    g_assert_cmpint(fl_times_get(kept, 3).tv_sec, ==, 50);
    g_assert_cmpint(fl_times_get(back, 3).tv_nsec, ==, 5);
    g_assert_cmpint(fl_times_get(pieces, 3).tv_sec, ==, 51);
    g_assert_cmpint(fl_times_get(size, 3).tv_sec, ==, 51);
}

/* NOTES of another source are not used if a third source noted one of their seconds for the same
 * place, whatever its series and disk. */
static void test_of_third_source(const FlPieceNotes *notes)
{
    g_autoptr(GError) error = NULL;
    const char *why;

    for (unsigned i = 0; i < 3; i++) {
        FlPieceNotes image = *notes, third = *notes;
        g_autoptr(FlTimes) its =
            fl_times_next(NULL, NULL, 70, 10, (struct timespec){i == 0 ? 51 : 50, 0});
        g_autoptr(FlTimes) times = NULL;

        image.source = "vda.qcow2";
        third.source = "qmp:third";
        third.series = "weekly";
        third.disk_id = "third";
        third.point = "q";
        third.place = i == 1 ? "/vdb" : "/vda";
        g_assert_true(fl_piece_notes_save(&third, its, &error));
        times = fl_piece_notes_load(&image, true, &why);
        g_assert_true((times != NULL) == (i < 2));
        if (i == 2)
            g_assert_nonnull(strstr(why, "same times"));
        fl_piece_notes_forget(third.source, NULL);
    }
}

/* Detects any changed byte of the notes, and truncation. */
static void test_damage(void)
{
    g_autofree char *state = g_dir_make_tmp("times-XXXXXX", NULL);
    g_autoptr(FlTimes) times = fl_times_next(NULL, NULL, 100, 10, (struct timespec){50, 9});
    FlPieceNotes notes = {
        .source = "qmp:x", .series = "last", .place = "/vda", .disk_id = "/d", .point = ".p%"};
    g_autoptr(GError) error = NULL;
    g_autoptr(GDir) directory = NULL;
    g_autoptr(GPtrArray) others = NULL;
    g_autofree char *path = NULL, *text = NULL;
    FlPieceNotes other = notes;
    const char *why;
    gsize length;

    g_setenv("FLEECEFS_STATE_DIR", state, TRUE);
    g_assert_null(fl_piece_notes_load(&notes, true, &why));
    g_assert_cmpstr(why, ==, "there are none");
    g_assert_true(fl_piece_notes_save(&notes, times, &error));
    directory = g_dir_open(state, 0, NULL);
    path = g_build_filename(state, g_dir_read_name(directory), NULL);
    g_assert_true(g_file_get_contents(path, &text, &length, NULL));
    for (gsize i = 0; i <= length; i++) {
        g_autofree char *bad = g_memdup2(text, length + 1);

        if (i < length)
            bad[i] ^= 1;
        g_assert_true(g_file_set_contents(path, bad, (gssize)length, NULL));
        g_clear_pointer(&times, fl_times_free);
        times = fl_piece_notes_load(&notes, true, &why);
        g_assert_true((times != NULL) == (i == length));
        g_assert_true(g_file_set_contents(path, text, (gssize)i, NULL));
        g_clear_pointer(&times, fl_times_free);
        times = fl_piece_notes_load(&notes, true, &why);
        g_assert_true((times != NULL) == (i == length));
    }
    other.source = "vda.qcow2"; /* the image that the VM had */
    g_clear_pointer(&times, fl_times_free);
    g_assert_null(fl_piece_notes_load(&other, false, &why));
    times = fl_piece_notes_load(&other, true, &why);
    g_assert_nonnull(times);
    /* Regardless of ids. */
    other = notes;
    other.disk_id = NULL;
    other.point = "q";
    others = fl_piece_notes_others(&other, false);
    g_assert_cmpuint(others->len, ==, 1);
    for (unsigned i = 0; i < 3; i++) {
        other = notes;
        *(i == 0 ? &other.series : i == 1 ? &other.place : &other.disk_id) = "z";
        g_assert_null(fl_piece_notes_load(&other, true, &why));
        g_assert_cmpstr(why, ==, "they are of another disk, or the disk had another name");
    }
    test_of_third_source(&notes);
    fl_piece_notes_forget("qmp:y", NULL);
    fl_piece_notes_forget(notes.source, "weekly");
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    fl_piece_notes_forget(notes.source, notes.series);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_rmdir(state);
}

/* Removes the temporary file of a killed writer, but not that of a running one. */
static void check_unfinished(const char *clock)
{
    g_autofree char *old = g_strconcat(clock, ".0abcde", NULL);
    g_autofree char *recent = g_strconcat(clock, ".1abcde", NULL);
    struct utimbuf long_ago = {.modtime = 1};
    g_autoptr(GError) error = NULL;
    gint64 second = 1000;

    g_assert_true(g_file_set_contents(old, "", 0, NULL));
    g_assert_true(g_file_set_contents(recent, "", 0, NULL));
    g_assert_cmpint(g_utime(old, &long_ago), ==, 0);
    g_assert_true(fl_piece_clock_next("x", "g", 0, second, &second, &error));
    g_assert_false(g_file_test(old, G_FILE_TEST_EXISTS));
    g_assert_true(g_file_test(recent, G_FILE_TEST_EXISTS));
    fl_piece_clock_forget("x");
    g_assert_false(g_file_test(recent, G_FILE_TEST_EXISTS));
}

static void test_clock(void)
{
    g_autofree char *state = g_dir_make_tmp("times-XXXXXX", NULL);
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(GDir) directory = NULL;
    static const struct {
        const char *state;
        gint64 floor, now, second, expected;
    } steps[] = {
        {"a", 0, 100, 100, 100}, {"a", 0, 105, 100, 100}, /* the same state, later */
        {"b", 0, 100, 100, 101},                          /* another one in the same second */
        {"c", 0, 90, 90, 102},   {"c", 200, 90, 90, 201}, /* another disk was later */
        {"d", 0, 300, 299, 299}, {"e", 0, 300, 299, 301}, /* a tool may have run at 300 */
    };

    g_setenv("FLEECEFS_STATE_DIR", state, TRUE);
    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        gint64 second = steps[i].second;

        g_assert_true(fl_piece_clock_next("x", steps[i].state, steps[i].floor, steps[i].now,
                                          &second, &error));
        g_assert_cmpint(second, ==, steps[i].expected);
    }
    directory = g_dir_open(state, 0, NULL);
    path = g_build_filename(state, g_dir_read_name(directory), NULL);
    g_assert_true(g_file_set_contents(path, "damaged", -1, NULL));
    for (gint64 floor = 0; floor < 100; floor += 50) {
        gint64 second = 20;

        g_assert_true(fl_piece_clock_next("x", "f", floor, 20, &second, &error));
        g_assert_cmpint(second, ==, MAX(20, floor + 1));
    }
    check_unfinished(path);
    g_assert_cmpint(g_rmdir(state), ==, 0);
    /* An unusable state directory is an error, and the floor still applies. */
    g_assert_true(g_file_set_contents(state, "", 0, NULL));
    for (gint64 second = 20; second < 21;) {
        g_assert_false(fl_piece_clock_next("x", "g", 30, 20, &second, &error));
        g_assert_nonnull(error);
        g_assert_cmpint(second, ==, 31);
    }
    g_unlink(state);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/times/rule", test_rule);
    g_test_add_func("/times/not-fitting", test_not_fitting);
    g_test_add_func("/times/damage", test_damage);
    g_test_add_func("/times/clock", test_clock);
    return g_test_run();
}
