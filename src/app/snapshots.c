/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/snapshots.h"

#include "app/pieces.h"
#include "util/deadline.h"

/* How long to wait for connections to close, and the polling interval. */
#define STILL_SECONDS 5
#define STILL_MS      10

typedef struct {
    FlSnapshotOptions options; /* referenced by the backup */
    FlSnapshot *backup;
    GPtrArray *disks; /* of Disk */
    bool ended;       /* committed or aborted */
} Snapshot;

typedef struct {
    const FlSnapshotDisk *disk;
    FlExport *export;
    FlPieces *pieces; /* to be noted by the current commit or abort; NULL: none */
} Disk;

struct FlSnapshots {
    GPtrArray *snapshots; /* of Snapshot */
    FlControl control;
    FlWorkers *workers; /* of the sources */
    void (*quit)(void *opaque);
    void *opaque;
    bool busy; /* a worker is talking to a VM */
};

/* A command executed by a worker. */
typedef struct {
    FlSnapshots *snapshots;
    FlControlCall *call;
    bool commit, force;
    unsigned loading; /* disks whose maps are not loaded yet */
    gint64 deadline;  /* for connections to close (g_get_monotonic_time()) */
    GError *error;    /* of the worker; NULL: success */
} Command;

static void disk_free(gpointer data)
{
    Disk *disk = data;

    fl_pieces_free(disk->pieces);
    g_free(disk);
}

static void snapshot_free(gpointer data)
{
    Snapshot *snapshot = data;

    fl_snapshot_free(snapshot->backup);
    g_ptr_array_unref(snapshot->disks);
    g_free(snapshot);
}

static void run_command(FlControlCall *call, bool commit, bool force, void *opaque);

FlSnapshots *fl_snapshots_new(void)
{
    FlSnapshots *snapshots = g_new0(FlSnapshots, 1);

    snapshots->snapshots = g_ptr_array_new_with_free_func(snapshot_free);
    snapshots->control = (FlControl){.run = run_command, .opaque = snapshots};
    return snapshots;
}

void fl_snapshots_free(FlSnapshots *snapshots)
{
    if (snapshots == NULL)
        return;
    g_ptr_array_unref(snapshots->snapshots);
    g_free(snapshots);
}

bool fl_snapshots_is_empty(const FlSnapshots *snapshots)
{
    return snapshots->snapshots->len == 0;
}

char **fl_snapshots_missing(const FlSnapshots *snapshots)
{
    g_autoptr(GStrvBuilder) names = g_strv_builder_new();

    for (guint i = 0; i < snapshots->snapshots->len; i++) {
        const Snapshot *snapshot = snapshots->snapshots->pdata[i];
        const GPtrArray *missing = fl_snapshot_missing(snapshot->backup);

        for (guint j = 0; j < missing->len; j++)
            g_strv_builder_add(names, missing->pdata[j]);
    }
    return g_strv_builder_end(names);
}

const FlControl *fl_snapshots_control(const FlSnapshots *snapshots)
{
    return &snapshots->control;
}

FlSnapshot *fl_snapshots_begin(FlSnapshots *snapshots, const FlSnapshotOptions *options,
                               GError **error)
{
    Snapshot *snapshot = g_new0(Snapshot, 1);

    snapshot->options = *options;
    snapshot->backup = fl_snapshot_begin(&snapshot->options, error);
    if (snapshot->backup == NULL) {
        g_free(snapshot);
        return NULL;
    }
    snapshot->disks = g_ptr_array_new_with_free_func(disk_free);
    g_ptr_array_add(snapshots->snapshots, snapshot);
    return snapshot->backup;
}

static uint64_t ask(void *backup)
{
    return fl_snapshot_ask(backup);
}

static bool is_whole(void *backup)
{
    return fl_snapshot_is_whole(backup);
}

/* Whether data from DISK is held back until the VM has confirmed it. Images that fleecefs serves
 * itself do not change. */
static bool needs_confirmation(const Snapshot *snapshot, const FlSnapshotDisk *disk)
{
    return fl_snapshot_can_ask(snapshot->backup) && disk->image == NULL;
}

void fl_snapshots_add_disk(FlSnapshots *snapshots, const FlSnapshotDisk *disk, FlExport *export,
                           FlSource *relay)
{
    Snapshot *last = snapshots->snapshots->pdata[snapshots->snapshots->len - 1];
    Disk *added = g_new(Disk, 1);

    *added = (Disk){.disk = disk, .export = export};
    g_ptr_array_add(last->disks, added);
    if (needs_confirmation(last, disk))
        fl_disk_set_confirm(fl_export_disk(export), &(FlDiskConfirmOps){.is_whole = is_whole,
                                                                        .ask = ask,
                                                                        .opaque = last->backup,
                                                                        .relay = relay});
}

void fl_snapshots_allow(const FlSnapshots *snapshots, FlSandbox *sandbox)
{
    for (guint i = 0; i < snapshots->snapshots->len; i++)
        fl_snapshot_allow(((const Snapshot *)snapshots->snapshots->pdata[i])->backup, sandbox);
}

/* Runs in the session's thread: all reads must fail from now on. */
static void disk_lost(const FlSnapshotDisk *lost, const char *why, void *opaque)
{
    const Snapshot *snapshot = opaque;

    for (guint i = 0; i < snapshot->disks->len; i++) {
        const Disk *disk = snapshot->disks->pdata[i];
        if (lost == NULL || lost == disk->disk)
            fl_disk_condemn(fl_export_disk(disk->export), why);
    }
}

/* Passed from the session's thread to the main loop. */
typedef struct {
    const Snapshot *snapshot;
    uint64_t number;
    bool known;
} Answer;

static gboolean take_answer(gpointer opaque)
{
    const Answer *answer = opaque;

    if (!answer->known)
        g_warning("%s does not answer: its data cannot be confirmed, so reads fail until it does",
                  answer->snapshot->options.source);
    for (guint i = 0; i < answer->snapshot->disks->len; i++) {
        const Disk *disk = answer->snapshot->disks->pdata[i];
        fl_disk_confirm(fl_export_disk(disk->export), answer->number, answer->known);
    }
    return G_SOURCE_REMOVE;
}

static void answered(uint64_t number, bool known, void *opaque)
{
    Answer answer = {.snapshot = opaque, .number = number, .known = known};

    g_idle_add_full(G_PRIORITY_HIGH, take_answer, g_memdup2(&answer, sizeof answer), g_free);
}

static const FlSnapshotWatcher watcher = {.lost = disk_lost, .answered = answered};

void fl_snapshots_start(FlSnapshots *snapshots, FlWorkers *workers, void (*quit)(void *opaque),
                        void *opaque)
{
    snapshots->workers = workers;
    snapshots->quit = quit;
    snapshots->opaque = opaque;
    for (guint i = 0; i < snapshots->snapshots->len; i++) {
        Snapshot *snapshot = snapshots->snapshots->pdata[i];
        fl_snapshot_watch(snapshot->backup, &watcher, snapshot);
    }
}

/* Calls FUNCTION for each disk of snapshots that have not ended. */
static void for_each_disk(const FlSnapshots *snapshots, void (*function)(FlDisk *disk))
{
    for (guint i = 0; i < snapshots->snapshots->len; i++) {
        const Snapshot *snapshot = snapshots->snapshots->pdata[i];
        for (guint j = 0; j < snapshot->disks->len && !snapshot->ended; j++)
            function(fl_export_disk(((const Disk *)snapshot->disks->pdata[j])->export));
    }
}

/* Whether everything that a backup needs was read. */
static bool is_covered(const Disk *disk, GError **error)
{
    const char *name = disk->disk->name;
    FlCoverage coverage;

    if (fl_disk_failure(fl_export_disk(disk->export)) != NULL)
        return fl_fail(error, "disk %s has failed: %s; --abort, and back up again", name,
                       fl_disk_failure(fl_export_disk(disk->export)));
    if (fl_disk_maps(fl_export_disk(disk->export)) == NULL)
        return fl_fail(error, "cannot read the maps of disk %s; --abort, and back up again", name);
    coverage = fl_export_coverage(disk->export, fl_export_origin(disk->export)->chain.increment);
    if (coverage.delivered < coverage.wanted)
        return fl_fail(error,
                       "%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                       " bytes of disk %s were not read; back them up first, or --commit --force",
                       coverage.wanted - coverage.delivered, coverage.wanted, name);
    return true;
}

static bool all_covered(const FlSnapshots *snapshots, GError **error)
{
    for (guint i = 0; i < snapshots->snapshots->len; i++) {
        const Snapshot *snapshot = snapshots->snapshots->pdata[i];
        for (guint j = 0; j < snapshot->disks->len && !snapshot->ended; j++) {
            if (!is_covered(snapshot->disks->pdata[j], error))
                return false;
        }
    }
    return true;
}

/* Checks all snapshots before committing any, since a commit cannot be undone if a later one is
 * refused. */
static bool check_all(const FlSnapshots *snapshots, GError **error)
{
    for (guint i = 0; i < snapshots->snapshots->len && snapshots->snapshots->len > 1; i++) {
        const Snapshot *snapshot = snapshots->snapshots->pdata[i];
        if (!snapshot->ended && !fl_snapshot_check(snapshot->backup, error))
            return false;
    }
    return true;
}

static void for_each_pieces(const Snapshot *snapshot, void (*function)(const FlPieces *pieces))
{
    for (guint i = 0; i < snapshot->disks->len; i++) {
        const Disk *disk = snapshot->disks->pdata[i];

        if (disk->pieces != NULL)
            function(disk->pieces);
    }
}

/*
 * Commits or aborts all snapshots. FL_ERROR_LEFT means that something could not be cleaned up; the
 * first other error stops a commit, but not an abort.
 */
static bool end_all(FlSnapshots *snapshots, bool commit, GError **error)
{
    GError *first = NULL;

    if (commit && !check_all(snapshots, error))
        return false;
    for (guint i = 0; i < snapshots->snapshots->len; i++) {
        Snapshot *snapshot = snapshots->snapshots->pdata[i];
        g_autoptr(GError) why = NULL;
        bool ok;

        if (snapshot->ended)
            continue;
        for_each_pieces(snapshot, commit ? fl_pieces_save : fl_pieces_save_shown);
        ok = commit ? fl_snapshot_commit(snapshot->backup, &why)
                    : fl_snapshot_abort(snapshot->backup, &why);
        snapshot->ended = ok || !commit || g_error_matches(why, FL_ERROR, FL_ERROR_LEFT);
        if (snapshot->ended)
            fl_pieces_ended(&snapshot->options);
        if (commit && snapshot->ended)
            for_each_pieces(snapshot, fl_pieces_settle);
        if (!ok && first == NULL)
            first = g_steal_pointer(&why);
        if (!snapshot->ended)
            break;
    }
    if (first == NULL)
        return true;
    g_propagate_error(error, first);
    return false;
}

/* Other snapshots keep the mount: reads from disks whose snapshot has ended must fail, or they
 * would wait forever. */
static void fail_ended(const FlSnapshots *snapshots)
{
    for (guint i = 0; i < snapshots->snapshots->len; i++) {
        const Snapshot *snapshot = snapshots->snapshots->pdata[i];
        for (guint j = 0; j < snapshot->disks->len && snapshot->ended; j++)
            fl_disk_fail(fl_export_disk(((const Disk *)snapshot->disks->pdata[j])->export),
                         "its backup is committed and its snapshot has ended; other VMs of this "
                         "mount could not be committed");
    }
}

static void command_done(void *opaque)
{
    g_autofree Command *command = opaque;
    FlSnapshots *snapshots = command->snapshots;
    g_autoptr(GError) error = command->error;
    bool ok = error == NULL;
    bool ended = true;

    snapshots->busy = false;
    for (guint i = 0; i < snapshots->snapshots->len; i++)
        ended = ended && ((const Snapshot *)snapshots->snapshots->pdata[i])->ended;
    if (!ok)
        g_warning("%s: %s", command->commit ? "commit" : "abort", error->message);
    fl_control_reply(command->call, ok ? 0 : fl_error_exit_status(error),
                     ok ? NULL : error->message);
    if (ended) {
        snapshots->quit(snapshots->opaque);
    } else {
        fail_ended(snapshots);
        for_each_disk(snapshots, fl_disk_resume);
    }
}

static void command_now(void *opaque)
{
    Command *command = opaque;

    end_all(command->snapshots, command->commit, &command->error);
}

static bool are_still(const FlSnapshots *snapshots)
{
    for (guint i = 0; i < snapshots->snapshots->len; i++) {
        const Snapshot *snapshot = snapshots->snapshots->pdata[i];
        for (guint j = 0; j < snapshot->disks->len; j++) {
            const Disk *disk = snapshot->disks->pdata[j];
            if (!fl_disk_is_still(fl_export_disk(disk->export)))
                return false;
        }
    }
    return true;
}

/* Waits for threads that are opening a connection: QEMU 7.2 hangs, together with the VM, if its NBD
 * server is stopped while a client is negotiating. */
static gboolean run_when_still(gpointer opaque)
{
    Command *command = opaque;

    if (!are_still(command->snapshots) && g_get_monotonic_time() < command->deadline)
        return G_SOURCE_CONTINUE;
    fl_workers_push(command->snapshots->workers, command_now, command_done, command);
    return G_SOURCE_REMOVE;
}

static void prepare_pieces(const FlSnapshots *snapshots, bool commit)
{
    for (guint i = 0; i < snapshots->snapshots->len; i++) {
        const Snapshot *snapshot = snapshots->snapshots->pdata[i];

        for (guint j = 0; j < snapshot->disks->len; j++) {
            Disk *disk = snapshot->disks->pdata[j];

            fl_pieces_free(disk->pieces);
            disk->pieces = commit ? fl_pieces_new(disk->export, &snapshot->options)
                                  : fl_pieces_new_shown(disk->export, &snapshot->options);
        }
    }
}

static void start_command(Command *command)
{
    FlSnapshots *snapshots = command->snapshots;
    g_autoptr(GError) error = NULL;

    if (command->commit && !command->force && !all_covered(snapshots, &error)) {
        snapshots->busy = false;
        fl_control_reply(command->call, FL_ERROR_FAILED, error->message);
        g_free(command);
        return;
    }
    prepare_pieces(snapshots, command->commit);
    for_each_disk(snapshots, fl_disk_suspend);
    command->deadline = fl_deadline_in(STILL_SECONDS);
    if (run_when_still(command))
        g_timeout_add(STILL_MS, run_when_still, command);
}

static void command_loaded(FlDisk *disk, errint_t result, void *opaque)
{
    Command *command = opaque;

    if (--command->loading == 0)
        start_command(command);
}

/* Loads the maps needed to check that everything was read: of a disk without changes, possibly
 * nothing was read, and its map not loaded. */
static void load_maps(Command *command)
{
    const GPtrArray *snapshots = command->snapshots->snapshots;

    command->loading = 1;
    for (guint i = 0; i < snapshots->len; i++) {
        const Snapshot *snapshot = snapshots->pdata[i];
        for (guint j = 0; j < snapshot->disks->len && !snapshot->ended; j++) {
            const Disk *disk = snapshot->disks->pdata[j];
            command->loading++;
            fl_disk_load(fl_export_disk(disk->export), command_loaded, command);
        }
    }
    command_loaded(NULL, 0, command);
}

static void run_command(FlControlCall *call, bool commit, bool force, void *opaque)
{
    FlSnapshots *snapshots = opaque;
    Command *command;

    if (snapshots->busy) {
        fl_control_reply(call, FL_ERROR_FAILED, "a commit or abort is in progress");
        return;
    }
    if (commit && fl_snapshots_is_empty(snapshots)) {
        fl_control_reply(call, FL_ERROR_FAILED,
                         "this mount took no snapshot: unmount it with fusermount3 -u");
        return;
    }
    snapshots->busy = true;
    command = g_new0(Command, 1);
    command->snapshots = snapshots;
    command->call = call;
    command->commit = commit;
    command->force = force;
    if (commit && !force)
        load_maps(command);
    else
        start_command(command);
}

bool fl_snapshots_end(FlSnapshots *snapshots, GError **error)
{
    if (snapshots == NULL)
        return true;
    while (snapshots->busy)
        g_main_context_iteration(NULL, TRUE);
    prepare_pieces(snapshots, false);
    return end_all(snapshots, false, error);
}
