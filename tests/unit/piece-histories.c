/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The times of pieces over random histories, against a model that keeps all contents: whenever a
 * tool finds a piece with a time that it has seen, the piece is what it was then. Disks of one VM
 * are written to, resized, replaced, exchanged and left out; snapshots of two series are committed,
 * aborted, or cut between any two steps, with tools that look at the pieces or not, and notes are
 * lost; the VM is looked at while it is off; the host's clock is set back. In histories with one
 * series, disks are rolled back to an older state.
 */
#include "helper.h"
#include "map/times.h"
#include "snapshot/piece-clock.h"
#include "snapshot/piece-notes.h"

#include <glib/gstdio.h>
#include <unistd.h>

#define PIECE  8
#define PIECES 9
#define SERIES 2
#define DISKS  2

/* A disk whose contents are random numbers, new at each write. */
typedef struct {
    unsigned id;
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

/* State of two tools: one compares times for equality, one compares them with its clock. */
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

/* All tools look at DISK; the last one runs at START unless that is 0. Returns the number of
 * unchanged pieces. */
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

/* Invalidates the restore points. */
static void forget_points(Disk *disk)
{
    for (unsigned i = 0; i < SERIES; i++)
        g_clear_pointer(&disk->point[i], g_free);
}

static void resize(GRand *rand, Disk *disk)
{
    disk->size = PIECE * 6 + random_below(rand, PIECE * 3) + 1;
    forget_points(disk);
}

static void replace(GRand *rand, Disk *disk, unsigned id)
{
    forget_points(disk);
    *disk = (Disk){.id = id, .size = PIECE * 7 + 3};
    for (unsigned i = 0; i < 10; i++)
        write_some(rand, disk);
}

/* The disks of a VM, and the tools' state for each of its places. */
typedef struct {
    GRand *rand;
    const char *source;
    Disk disks[DISKS];
    Tools tools[DISKS];
    Disk copies[DISKS];   /* older states; the size is 0 if there is none */
    bool goes_back;       /* disks are rolled back to an older state */
    gint64 host, written; /* its clock, and when a disk was last written to */
    unsigned version;     /* of all disks */
    uint64_t kept, cuts;
} Machine;

/* A disk of a snapshot. */
typedef struct {
    unsigned place;
    FlPieceNotes notes;
    char disk_id[32];
    FlTimes *times;
    gint64 second;
    char *base; /* owned; NULL: none */
    bool looked;
    bool noted; /* a commit saves its notes */
} Shown;

/* A tool sees a disk in STATE, of which the point in time is SECOND, relative to the base of SERIES
 * unless FULL; at START unless that is 0. If not LOOKED, no tool lists the pieces. */
static void show(Machine *machine, Shown *shown, unsigned place, unsigned series, const char *state,
                 gint64 second, bool full, bool looked, gint64 start)
{
    static const char *const names[] = {"last", "weekly"};
    const Disk *disk = &machine->disks[place];
    gint64 floor = disk->point[series] != NULL ? disk->second[series] : 0;
    g_autoptr(FlMap) dirty = NULL;
    g_autoptr(FlTimes) last = NULL;
    g_autoptr(GPtrArray) others = NULL;
    g_autoptr(GError) error = NULL;
    const char *why = NULL;
    bool foreign;

    *shown = (Shown){.place = place, .second = second};
    g_snprintf(shown->disk_id, sizeof shown->disk_id, "disk%u-%u", disk->id, series);
    shown->notes = (FlPieceNotes){.source = machine->source,
                                  .series = names[series],
                                  .place = place == 0 ? "/vda" : "/vdb",
                                  .disk_id = shown->disk_id,
                                  .point = disk->point[series]};
    foreign = fl_piece_notes_foreign(&shown->notes);
    if (foreign && looked)
        fl_piece_notes_take_over(&shown->notes);
    shown->looked = looked;
    shown->noted = looked || !foreign;
    if (disk->point[series] != NULL && !full && !foreign) {
        last = fl_piece_notes_load(&shown->notes, false, &why);
        dirty = dirty_map(disk, series);
        g_assert_true(last != NULL || why != NULL);
    }
    if (last != NULL) {
        floor = MAX(floor, fl_times_latest(last).tv_sec);
        others = fl_piece_notes_others(&shown->notes, false);
    }
    g_assert_true(
        fl_piece_clock_next(machine->source, state, floor, machine->host, &shown->second, &error));
    for (guint i = 0; others != NULL && i < others->len; i++) {
        if (dirty != NULL && fl_times_disk_size(last) == disk->size &&
            !fl_times_may_follow(last, others->pdata[i], dirty))
            g_clear_pointer(&dirty, fl_map_unref);
    }
    shown->base = full ? NULL : g_strdup(disk->point[series]);
    shown->times =
        fl_times_next(last, dirty, disk->size, PIECE, (struct timespec){.tv_sec = shown->second});
    if (looked)
        machine->kept += look(&machine->tools[place], disk, shown->times, shown->second, start);
}

static void shown_clear(Shown *shown)
{
    fl_times_free(shown->times);
    g_free(shown->base);
}

/* SHOWN, a snapshot POINT, ends without a commit. */
static void end_shown(Shown *shown, const char *point)
{
    g_autoptr(GError) error = NULL;

    shown->notes.point = point;
    if (shown->base != NULL)
        g_assert_true(fl_piece_notes_save(&shown->notes, shown->times, &error));
    fl_piece_notes_settle(&shown->notes, shown->base);
}

typedef enum { ABORTED, KILLED, UNNOTED, COMMITTED } End;

/* Step STEP of a commit of N disks: notes of each, one transaction, and the end of older notes. */
static void run_step(Machine *machine, Shown *shown, unsigned n, unsigned step, unsigned series,
                     const char *point, bool noted)
{
    g_autoptr(GError) error = NULL;

    if (step < n && noted && shown[step].noted) {
        shown[step].notes.point = point;
        g_assert_true(fl_piece_notes_save(&shown[step].notes, shown[step].times, &error));
    }
    for (unsigned i = 0; step == n && i < n; i++) {
        Disk *disk = &machine->disks[shown[i].place];

        g_free(disk->point[series]);
        disk->point[series] = g_strdup(point);
        disk->second[series] = shown[i].second;
        memset(disk->dirty[series], 0, sizeof disk->dirty[series]);
    }
    if (step > n && shown[step - n - 1].noted) {
        shown[step - n - 1].notes.point = point;
        fl_piece_notes_settle(&shown[step - n - 1].notes, NULL);
    }
}

/* One snapshot of SERIES, from the mount to its end. */
static void run_snapshot(Machine *machine, unsigned series, const char *point)
{
    uint64_t drawn = random_below(machine->rand, 6);
    End how = MIN(drawn, COMMITTED);
    bool full = random_below(machine->rand, 10) == 0;
    gint64 second = machine->host, start;
    unsigned n = 0, steps;
    Shown shown[DISKS];
    g_autoptr(GError) error = NULL;

    machine->host += (gint64)random_below(machine->rand, 3);
    start = how != KILLED && random_below(machine->rand, 2) == 0 ? machine->host : 0;
    for (unsigned place = 0; place < DISKS; place++) {
        /* A disk that is not there this time, or left out. */
        if (n + 1 < DISKS - place || random_below(machine->rand, 5) > 0)
            show(machine, &shown[n++], place, series, point, second, full,
                 random_below(machine->rand, 3) > 0, start);
    }
    steps = how == ABORTED ? 0 : 2 * n + 1;
    if (how == KILLED)
        steps = (unsigned)random_below(machine->rand, steps + 1);
    for (unsigned step = 0; step < steps; step++)
        run_step(machine, shown, n, step, series, point, how != UNNOTED);
    machine->cuts += how == KILLED;
    if (how != KILLED)
        g_assert_true(fl_piece_clock_end(machine->source, machine->host, &error));
    for (unsigned i = 0; i < n; i++) {
        if (how == ABORTED && shown[i].looked)
            end_shown(&shown[i], point);
        shown_clear(&shown[i]);
    }
}

/* The VM is off, and its disks are looked at twice. */
static void run_off(Machine *machine, unsigned series)
{
    g_autofree char *state = g_strdup_printf("images %u", machine->version);
    g_autoptr(GError) error = NULL;

    for (unsigned place = 0; place < DISKS; place++) {
        Shown first, again;

        show(machine, &first, place, series, state, machine->written, false, true, 0);
        end_shown(&first, state);
        g_assert_true(fl_piece_clock_end(machine->source, machine->host, &error));
        show(machine, &again, place, series, state, machine->written, false, true, machine->host);
        /* A disk with a later base comes later, and all that is seen of it twice is the same. */
        g_assert_cmpint(first.second, ==, again.second);
        end_shown(&again, state);
        shown_clear(&first);
        shown_clear(&again);
        g_assert_true(fl_piece_clock_end(machine->source, machine->host, &error));
    }
}

static void copy_disk(Disk *to, const Disk *from)
{
    forget_points(to);
    *to = *from;
    for (unsigned i = 0; i < SERIES; i++)
        to->point[i] = g_strdup(from->point[i]);
}

/* Copies of disks are made, and put in their place. */
static void go_back(Machine *machine, unsigned id)
{
    for (unsigned place = 0; place < DISKS; place++) {
        Disk *copy = &machine->copies[place];

        if (random_below(machine->rand, 6) == 0)
            copy_disk(copy, &machine->disks[place]);
        /* Two disks of one VM have different ids. */
        if (copy->size == 0 || random_below(machine->rand, 6) > 0 ||
            machine->disks[DISKS - 1 - place].id == copy->id)
            continue;
        copy_disk(&machine->disks[place], copy);
        machine->version = id;
    }
}

static void change(Machine *machine, unsigned id)
{
    GRand *rand = machine->rand;

    if (machine->goes_back)
        go_back(machine, id);

    for (unsigned place = 0; place < DISKS; place++) {
        for (uint64_t n = random_below(rand, 4); n > 0; n--) {
            write_some(rand, &machine->disks[place]);
            machine->version = id;
        }
        if (random_below(rand, 20) == 0) {
            resize(rand, &machine->disks[place]);
            machine->version = id;
        }
        if (random_below(rand, 25) == 0) {
            replace(rand, &machine->disks[place], id * DISKS + place);
            machine->version = id;
        }
    }
    if (random_below(rand, 25) == 0) {
        Disk first = machine->disks[0];

        machine->disks[0] = machine->disks[1];
        machine->disks[1] = first;
        machine->version = id;
    }
    if (machine->version == id)
        machine->written = machine->host;
    /* Snapshots within a second, and a clock that is set back. */
    machine->host += (gint64)random_below(rand, 3);
    if (random_below(rand, 8) == 0)
        machine->host -= (gint64)random_below(rand, 20);
}

static void run_history(GRand *rand, unsigned round)
{
    g_autofree char *source = g_strdup_printf("vm%u", round);
    Machine machine = {.rand = rand, .source = source, .goes_back = round % 2, .host = 1000};

    for (unsigned place = 0; place < DISKS; place++) {
        replace(rand, &machine.disks[place], place);
        machine.tools[place].seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    }
    for (unsigned i = 1; i <= 80; i++) {
        g_autofree char *point = g_strdup_printf("point-%u-%u", round, i);
        unsigned series = machine.goes_back ? 0 : (unsigned)random_below(rand, SERIES);

        change(&machine, i);
        if (random_below(rand, 6) == 0)
            run_off(&machine, series);
        else
            run_snapshot(&machine, series, point);
    }
    /* Not all pieces are new each time. */
    g_assert_cmpuint(machine.kept, >, 20);
    g_assert_cmpuint(machine.cuts, >, 0);
    for (unsigned place = 0; place < DISKS; place++) {
        forget_points(&machine.disks[place]);
        forget_points(&machine.copies[place]);
        for (unsigned i = 0; i < PIECES; i++)
            g_free(machine.tools[place].contents[i]);
        g_hash_table_unref(machine.tools[place].seen);
    }
}

static void test_histories(void)
{
    /* Syncing is free there. */
    const char *memory = "/dev/shm";
    g_autofree char *state = g_build_filename(
        g_access(memory, W_OK) == 0 ? memory : g_get_tmp_dir(), "times-XXXXXX", NULL);
    g_autoptr(GRand) rand = test_rand();
    g_autoptr(GDir) directory = NULL;
    const char *name;

    g_assert_nonnull(g_mkdtemp(state));
    g_setenv("FLEECEFS_STATE_DIR", state, TRUE);
    for (unsigned round = 0; round < 8; round++)
        run_history(rand, round);
    directory = g_dir_open(state, 0, NULL);
    while ((name = g_dir_read_name(directory)) != NULL) {
        g_autofree char *path = g_build_filename(state, name, NULL);
        g_unlink(path);
    }
    g_rmdir(state);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/piece-histories/random", test_histories);
    return g_test_run();
}
