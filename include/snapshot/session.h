/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the ways to take a snapshot have in common, for them and for backup.c only. Each way is a
 * set of functions that run the actions of backup/machine.h on a VM.
 */
#pragma once

#include "snapshot/snapshot.h"
#include "snapshot/journal.h"
#include "snapshot/machine.h"
#include "snapshot/point.h"

typedef struct {
    /* Connects to the VM and locks it; changes nothing. */
    FlSnapshot *(*open)(const FlSnapshotOptions *options, GError **error);
    /* Never called with FL_ACTION_NONE. */
    bool (*run)(FlSnapshot *backup, FlAction action, GError **error);
    /* Handles events until a disk is newly lost or the descriptor WAKE can be read. */
    void (*wait)(FlSnapshot *backup, int wake);
    /* Asks the VM now, and loses each disk whose snapshot is not whole. False if it does not
     * answer. NULL: there is no way to ask. */
    bool (*look)(FlSnapshot *backup);
    void (*scratch_use)(const FlSnapshot *backup, const FlSnapshotDisk *disk, uint64_t *used,
                        uint64_t *limit);
    /* Removes all restore points of options->series, NULL: of all. */
    bool (*forget)(FlSnapshot *backup, GError **error);
    /* Allows what talking to the VM still takes, and putting it in order. */
    void (*allow)(const FlSnapshot *backup, FlSandbox *sandbox);
    /* Leaves the VM to others: connections and locks end. Only close follows. */
    void (*release)(FlSnapshot *backup);
    void (*close)(FlSnapshot *backup); /* frees BACKUP */
} FlSnapshotOps;

extern const FlSnapshotOps fl_fleece_backup_ops, fl_libvirt_backup_ops;

/* Each way's session starts with this. */
struct FlSnapshot {
    const FlSnapshotOps *ops;
    const FlSnapshotOptions *options;
    FlState state;

    GPtrArray *disks;  /* each starts with FlSnapshotDisk; filled by INSPECT */
    GPtrArray *notes;  /* of char *: what a person should know */
    GPtrArray *report; /* of char *: what was put back */
    int socket;        /* O_PATH, or -1 */
    FlSnapshotVm vm;   /* filled by open */
    char *id;          /* from fl_snapshot_set_time() on */
    struct timespec time;
    FlSnapshotTimes times;

    /* The session's thread. */
    GThread *thread; /* NULL while it does not run */
    int wake;        /* eventfd: that one of the next two has changed */
    GMutex lock;
    bool stop;                        /* LOCK */
    uint64_t asked;                   /* LOCK */
    uint64_t answered;                /* of asked; the thread's */
    const FlSnapshotWatcher *watcher; /* NULL before fl_snapshot_watch() */
    void *opaque;
};

/* Of disks that other VMs write to too: without -o disk= (the disk's name, by what it is shared)
 * and with it (its name). */
#define FL_SNAPSHOT_SHARED_REFUSED                                                                 \
    "disk %s is shared with other VMs (%s): what they write is in no bitmap, and the snapshot "    \
    "does "                                                                                        \
    "not hold it still; leave the disk out with -o disk=, or name it there for a full backup "     \
    "while "                                                                                       \
    "the other VMs are shut off"
#define FL_SNAPSHOT_SHARED_NOTE                                                                    \
    "disk %s is shared with other VMs: unless they are shut off, what they write meanwhile is in " \
    "this backup in part, and it may be useless"

/* The series, by default "last". */
static inline const char *fl_snapshot_series(const FlSnapshotOptions *options)
{
    return options->series != NULL ? options->series : FL_SERIES_DEFAULT;
}

/* Milliseconds that the guest may stay frozen. */
static inline unsigned fl_snapshot_freeze_limit(const FlSnapshotOptions *options)
{
    return (options->freeze_timeout != 0 ? MIN(options->freeze_timeout, 3600) : 10) * 1000;
}

/* For open and close: fills in a zeroed session, releases what fl_snapshot_init() made. */
void fl_snapshot_init(FlSnapshot *backup, const FlSnapshotOps *ops,
                      const FlSnapshotOptions *options);
void fl_snapshot_clear(FlSnapshot *backup);

/* Adds a line to the notes or the report. */
void fl_snapshot_note(FlSnapshot *backup, const char *format, ...) G_GNUC_PRINTF(2, 3);
void fl_snapshot_report(FlSnapshot *backup, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Says that the snapshot of DISK, or of all disks, cannot be trusted any more; the first word
 * counts. */
void fl_snapshot_lose(FlSnapshotDisk *disk, const char *format, ...) G_GNUC_PRINTF(2, 3);
void fl_snapshot_lose_all(FlSnapshot *backup, const char *why);
/* Whether the caller has yet to be told of a disk. */
bool fl_snapshot_newly_lost(const FlSnapshot *backup);
/* Notes what fl_snapshot_scratch_use() tells. */
void fl_snapshot_measure(FlSnapshot *backup);
/* For a commit: fails if a disk is lost. */
bool fl_snapshot_none_lost(const FlSnapshot *backup, GError **error);

/* Makes now the point in time, or the next second that no snapshot had yet, and the snapshot's id;
 * returns the second. */
gint64 fl_snapshot_set_time(FlSnapshot *backup, const FlJournal *journal);

/* Bytes free in the scratch directory at PATH. */
bool fl_snapshot_free_room(const char *path, uint64_t *room, GError **error);
/*
 * Refuses what would not last; a note says if the disks could fill it. RESERVE: bytes that are to
 * stay free, so that the guest's next writes find some; when less is left, a snapshot must go.
 */
bool fl_snapshot_check_room(FlSnapshot *backup, const char *path, uint64_t *reserve,
                            GError **error);

void fl_snapshot_disk_clear(FlSnapshotDisk *disk);
FlSnapshotBitmap *fl_snapshot_bitmap_new(const char *name, uint64_t granularity);
void fl_snapshot_bitmap_free(gpointer bitmap);
