/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What sessions of all providers have in common: for providers, and for snapshot.c, which drives
 * them. A session belongs to one thread at a time (snapshot/snapshot.h).
 */
#pragma once

#include "snapshot/journal.h"
#include "snapshot/point.h"
#include "snapshot/provider.h"

/* Each provider's session starts with this. */
struct FlSnapshot {
    const FlProvider *provider;
    const FlSnapshotOptions *options;
    FlState state;
    FlJournal *journal; /* opened by open; NULL after release */
    bool left;          /* something that the journal tells of could not be ended */
    bool refused;       /* the last sweep was: another QEMU has the disks, or a client the server */

    GPtrArray *disks;       /* each starts with FlSnapshotDisk; filled by INSPECT */
    GPtrArray *notes;       /* of char *: what a person should know */
    GPtrArray *report;      /* of char *: what was put back */
    int socket;             /* O_PATH, or -1 */
    const char *server_uri; /* where the server is that is not at SOCKET; NULL: none is */
    unsigned max_clients;   /* that all disks together may be to the server; 0: no limit */
    FlSnapshotVm vm;        /* filled by open */
    char *id;               /* from fl_snapshot_set_time() on */
    struct timespec time;
    FlSnapshotTimes times;

    /* The session's thread. */
    GThread *thread; /* NULL while it does not run */
    int wake;        /* eventfd: that one of the next two has changed */
    GMutex lock;
    bool stop;                        /* LOCK */
    uint64_t asked;                   /* LOCK */
    int silent;                       /* LOCK: see fl_snapshot_set_silent(); -1: nothing */
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

/*
 * QEMU's NBD server takes 100 clients unless it is told otherwise (since 9.1, and in corrections of
 * earlier versions), and libvirt does not tell it. Some are for other tools.
 */
#define FL_SNAPSHOT_SERVER_CLIENTS 90

/* The series, by default "last". */
static inline const char *fl_snapshot_series(const FlSnapshotOptions *options)
{
    return options->series != NULL ? options->series : FL_SERIES_DEFAULT;
}

/* The value of the provider's own option NAME; NULL if it was not given. */
static inline const char *fl_snapshot_own_option(const FlSnapshotOptions *options, const char *name)
{
    return options->values != NULL ? fl_source_value(options->values, name) : NULL;
}

/* Milliseconds that the guest may stay frozen. */
static inline unsigned fl_snapshot_freeze_limit(const FlSnapshotOptions *options)
{
    return (options->freeze_timeout != 0 ? MIN(options->freeze_timeout, 3600) : 10) * 1000;
}

/* For open and close: fills in a zeroed session, releases what fl_snapshot_init() made. */
void fl_snapshot_init(FlSnapshot *backup, const FlProvider *provider,
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

/*
 * For wait, of a provider whose VM says of its own accord whatever may end a snapshot, and says so
 * before it happens: while nothing can be read from the socket FD all snapshots are whole. -1: that
 * has to be asked for, which it is until this is called, and has to be again before anything is
 * received from FD. See fl_snapshot_is_whole().
 */
void fl_snapshot_set_silent(FlSnapshot *backup, int fd);

/* Bytes free in the scratch directory at PATH. */
bool fl_snapshot_free_room(const char *path, uint64_t *room, GError **error);
/*
 * Refuses what would not last; a note says if the disks could fill it. RESERVE: bytes that are to
 * stay free, so that the guest's next writes find some; when less is left, a snapshot must go.
 */
bool fl_snapshot_check_room(FlSnapshot *backup, const char *path, uint64_t *reserve,
                            GError **error);
/* The same, of a directory that has ROOM, on whatever host it is. */
bool fl_snapshot_check_this_room(FlSnapshot *backup, const char *path, uint64_t room,
                                 uint64_t *reserve, GError **error);

/*
 * Whether QEMU of this version may abort when an NBD client leaves an export of a disk that runs in
 * an iothread: "nbd_blockdev_client_closed: Assertion `qemu_in_main_thread() ...'" (fixed in 8.2.3
 * and 9.0; the fault came with the correction of CVE-2024-7409, which distributors took into older
 * versions).
 */
bool fl_snapshot_disconnect_kills(unsigned major, unsigned minor, unsigned micro);
/* Refuses DISK, which runs in an iothread of such a QEMU. Returns false. */
bool fl_snapshot_refuse_iothread(const char *disk, GError **error);

/* Bytes that the scratch image of DISK can come to take. */
uint64_t fl_snapshot_most_room(const FlSnapshotDisk *disk);

void fl_snapshot_disk_clear(FlSnapshotDisk *disk);
