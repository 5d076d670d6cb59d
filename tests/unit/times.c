/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The times of pieces over random histories, against a model that keeps all contents: whenever a
 * tool finds a piece with a time that it has seen, the piece is what it was then; also where the
 * host's clock is set back.
 */
#include "helper.h"
#include "map/times.h"
#include "snapshot/piece-clock.h"
#include "snapshot/piece-notes.h"

#include <glib/gstdio.h>

#define PIECE  8
#define PIECES 9
#define SERIES 2

/* A disk whose content is a number a byte, drawn anew at each write. */
typedef struct {
    uint64_t size;
    guint32 bytes[PIECE * PIECES];
    bool dirty[SERIES][PIECE * PIECES];
    char *point[SERIES]; /* NULL: none */
    gint64 second[SERIES];
} Disk;

static char *content_of(const Disk *disk, uint64_t piece)
{
    GString *text = g_string_new(NULL);

    for (uint64_t at = piece * PIECE; at < MIN((piece + 1) * PIECE, disk->size); at++)
        g_string_append_printf(text, "%u ", disk->bytes[at]);
    return g_string_free(text, FALSE);
}

static void write_some(GRand *rand, Disk *disk)
{
    uint64_t start = random_below(rand, disk->size), length = 1 + random_below(rand, PIECE);

    for (uint64_t at = start; at < MIN(start + length, disk->size); at++) {
        disk->bytes[at] = g_rand_int(rand);
        for (unsigned i = 0; i < SERIES; i++)
            disk->dirty[i][at] = true;
    }
}

static FlMap *dirty_map(const Disk *disk, unsigned series)
{
    FlMapBuilder *builder = fl_map_builder_new();

    for (uint64_t at = 0; at < disk->size; at++)
        g_assert_cmpint(fl_map_builder_add(builder, 1, disk->dirty[series][at]), ==, 0);
    return fl_map_builder_finish(builder);
}

/* What tools have: one that goes by equal times, and one that goes by its own clock. */
typedef struct {
    GHashTable *seen; /* piece and time -> content */
    gint64 start;     /* of the last run of the other tool */
    char *contents[PIECES];
} Tools;

static void see(Tools *tools, uint64_t piece, struct timespec since, const char *content)
{
    g_autofree char *key = g_strdup_printf("%" G_GUINT64_FORMAT " %ld", piece, (long)since.tv_sec);
    const char *known = g_hash_table_lookup(tools->seen, key);

    if (known != NULL)
        g_assert_cmpstr(known, ==, content);
    else
        g_hash_table_insert(tools->seen, g_steal_pointer(&key), g_strdup(content));
    /* Not newer than its last run: skipped. */
    if (tools->contents[piece] != NULL && since.tv_sec <= tools->start)
        g_assert_cmpstr(tools->contents[piece], ==, content);
}

/* All tools look at DISK; the last one runs at START unless that is 0. How many pieces are old. */
static uint64_t look(Tools *tools, const Disk *disk, const FlTimes *times, gint64 second,
                     gint64 start)
{
    uint64_t kept = 0;

    for (uint64_t piece = 0; piece * PIECE < disk->size; piece++) {
        g_autofree char *content = content_of(disk, piece);
        struct timespec since = fl_times_get(times, piece);

        see(tools, piece, since, content);
        kept += since.tv_sec != second;
        if (start == 0)
            continue;
        g_free(tools->contents[piece]);
        tools->contents[piece] = g_steal_pointer(&content);
    }
    if (start != 0)
        tools->start = start;
    return kept;
}

static void resize(GRand *rand, Disk *disk)
{
    disk->size = PIECE * 6 + random_below(rand, PIECE * 3) + 1;
    /* The restore points no longer count. */
    for (unsigned i = 0; i < SERIES; i++)
        g_clear_pointer(&disk->point[i], g_free);
}

typedef enum { ABORTED, KILLED, UNNOTED, COMMITTED } End;

/* One snapshot of SERIES, from the mount to its end; how many pieces are old. */
static uint64_t run_snapshot(GRand *rand, Disk *disk, FlPieceNotes *notes, unsigned series,
                             const char *point, gint64 *host, Tools *tools)
{
    gint64 floor = disk->point[series] != NULL ? disk->second[series] : 0, second = *host;
    bool full = random_below(rand, 10) == 0;
    End how = MIN(random_below(rand, 6), COMMITTED);
    g_autoptr(FlMap) dirty = NULL;
    g_autoptr(FlTimes) last = NULL, times = NULL;
    g_autoptr(GError) error = NULL;
    const char *why = NULL;
    uint64_t kept;

    notes->series = series == 0 ? "last" : "weekly";
    notes->point = disk->point[series];
    if (notes->point != NULL && !full) {
        last = fl_piece_notes_load(notes, &why);
        dirty = dirty_map(disk, series);
        g_assert_true(last != NULL || why != NULL);
    }
    if (last != NULL)
        floor = MAX(floor, fl_times_latest(last).tv_sec);
    g_assert_true(fl_piece_clock_next(notes->source, point, floor, *host, &second, &error));
    times = fl_times_next(last, dirty, disk->size, PIECE, (struct timespec){.tv_sec = second});
    *host += (gint64)random_below(rand, 3);
    kept =
        look(tools, disk, times, second, how != KILLED && random_below(rand, 2) == 0 ? *host : 0);

    notes->point = point;
    if (how == KILLED || how == COMMITTED)
        g_assert_true(fl_piece_notes_save(notes, times, &error));
    if (how != KILLED)
        g_assert_true(fl_piece_clock_end(notes->source, *host, &error));
    if (how == ABORTED || how == KILLED)
        return kept;
    g_free(disk->point[series]);
    disk->point[series] = g_strdup(point);
    disk->second[series] = second;
    memset(disk->dirty[series], 0, sizeof disk->dirty[series]);
    /* The end may come before this. */
    if (random_below(rand, 4) != 0)
        fl_piece_notes_settle(notes);
    return kept;
}

static void run_history(GRand *rand, unsigned round)
{
    Tools tools = {.seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free)};
    g_autofree char *source = g_strdup_printf("vm%u", round);
    Disk disk = {.size = PIECE * 7 + 3};
    gint64 host = 1000;
    uint64_t kept = 0;

    for (unsigned i = 0; i < 60; i++) {
        g_autofree char *point = g_strdup_printf("point-%u-%u", round, i);
        FlPieceNotes notes = {.source = source, .place = "/vda", .disk_id = "d"};

        for (uint64_t n = random_below(rand, 4); n > 0; n--)
            write_some(rand, &disk);
        if (random_below(rand, 20) == 0)
            resize(rand, &disk);
        /* Snapshots within a second, and a clock that is set back. */
        host += (gint64)random_below(rand, 3);
        if (random_below(rand, 8) == 0)
            host -= (gint64)random_below(rand, 20);
        kept += run_snapshot(rand, &disk, &notes, (unsigned)random_below(rand, SERIES), point,
                             &host, &tools);
    }
    /* It is not always all that is new. */
    g_assert_cmpuint(kept, >, 20);
    for (unsigned i = 0; i < SERIES; i++)
        g_free(disk.point[i]);
    for (unsigned i = 0; i < PIECES; i++)
        g_free(tools.contents[i]);
    g_hash_table_unref(tools.seen);
}

static void test_histories(void)
{
    g_autofree char *state = g_dir_make_tmp("times-XXXXXX", NULL);
    g_autoptr(GRand) rand = test_rand();
    g_autoptr(GDir) directory = NULL;
    const char *name;

    g_setenv("FLEECEFS_STATE_DIR", state, TRUE);
    for (unsigned round = 0; round < 20; round++)
        run_history(rand, round);
    directory = g_dir_open(state, 0, NULL);
    while ((name = g_dir_read_name(directory)) != NULL) {
        g_autofree char *path = g_build_filename(state, name, NULL);
        g_unlink(path);
    }
    g_rmdir(state);
}

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

/* Times that are not of an earlier moment, or of other sizes, count for nothing. */
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

/* No byte of the notes can be changed, nor their end be lost, without a word. */
static void test_damage(void)
{
    g_autofree char *state = g_dir_make_tmp("times-XXXXXX", NULL);
    g_autoptr(FlTimes) times = fl_times_next(NULL, NULL, 100, 10, (struct timespec){50, 9});
    FlPieceNotes notes = {
        .source = "qmp:x", .series = "last", .place = "/vda", .disk_id = "d", .point = "p"};
    g_autoptr(GError) error = NULL;
    g_autoptr(GDir) directory = NULL;
    g_autofree char *path = NULL, *text = NULL;
    FlPieceNotes other = notes;
    const char *why;
    gsize length;

    g_setenv("FLEECEFS_STATE_DIR", state, TRUE);
    g_assert_null(fl_piece_notes_load(&notes, &why));
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
        times = fl_piece_notes_load(&notes, &why);
        g_assert_true((times != NULL) == (i == length));
        g_assert_true(g_file_set_contents(path, text, (gssize)i, NULL));
        g_clear_pointer(&times, fl_times_free);
        times = fl_piece_notes_load(&notes, &why);
        g_assert_true((times != NULL) == (i == length));
    }
    other.source = "vda.qcow2"; /* the image that the VM had */
    g_clear_pointer(&times, fl_times_free);
    times = fl_piece_notes_load(&other, &why);
    g_assert_nonnull(times);
    for (unsigned i = 0; i < 3; i++) {
        other = notes;
        *(i == 0 ? &other.series : i == 1 ? &other.place : &other.disk_id) = "z";
        g_assert_null(fl_piece_notes_load(&other, &why));
        g_assert_cmpstr(why, ==, "they are of another disk, or the disk had another name");
    }
    fl_piece_notes_forget("qmp:y", NULL);
    fl_piece_notes_forget(notes.source, "weekly");
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    fl_piece_notes_forget(notes.source, notes.series);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_rmdir(state);
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
    fl_piece_clock_forget("x");
    g_assert_cmpint(g_rmdir(state), ==, 0);
    /* A state directory that cannot be had is an error, and the floor still counts. */
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
    g_test_add_func("/times/histories", test_histories);
    g_test_add_func("/times/damage", test_damage);
    g_test_add_func("/times/clock", test_clock);
    return g_test_run();
}
