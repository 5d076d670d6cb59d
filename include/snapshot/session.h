/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The common part of all providers' sessions, used by the providers and by snapshot.c, which drives
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
    bool left;          /* something listed in the journal could not be removed */
    bool refused;       /* the last sweep was refused: another QEMU owns the disks, or a client is
                           still connected */

    GPtrArray *disks;       /* each starts with FlSnapshotDisk; filled by INSPECT */
    GPtrArray *missing;     /* of char *: see fl_snapshot_missing(); filled by INSPECT */
    GPtrArray *notes;       /* of char *: remarks for the user */
    GPtrArray *report;      /* of char *: what was cleaned up */
    int socket;             /* O_PATH, or -1 */
    const char *server_uri; /* of a server that is not at SOCKET; NULL: none */
    const char *relay;      /* see fl_snapshot_relay(); NULL: none */
    unsigned max_clients;   /* limit of connections of all disks together; 0: no limit */
    FlSnapshotVm vm;        /* filled by open */
    char *id;               /* set by fl_snapshot_set_time() */
    struct timespec time;
    FlSnapshotTimes times;

    /* The session's thread. */
    GThread *thread; /* NULL while not running */
    int wake;        /* eventfd: STOP or ASKED has changed */
    GMutex lock;
    bool stop;                        /* LOCK */
    uint64_t asked;                   /* LOCK */
    int silent;                       /* LOCK: see fl_snapshot_set_silent(); -1: nothing */
    uint64_t answered;                /* of ASKED; owned by the thread */
    const FlSnapshotWatcher *watcher; /* NULL before fl_snapshot_watch() */
    void *opaque;
};

/* For read-only disks: the reason for a full backup, and a hint for errors without
 * options->read_only. */
#define FL_SNAPSHOT_READ_ONLY      "it is read-only: it has no restore points"
#define FL_SNAPSHOT_READ_ONLY_HINT ", or give -o read_only"

/* Messages about disks that other VMs write to: without -o disk= (arguments: the disk's name, what
 * makes it shared) and with it (argument: the name). */
#define FL_SNAPSHOT_SHARED_REFUSED                                                                 \
    "disk %s is shared with other VMs (%s): their writes are in no bitmap and bypass the "         \
    "snapshot; leave the disk out with -o disk=, or name it there for a full backup while the "    \
    "other VMs are shut off"
#define FL_SNAPSHOT_SHARED_NOTE                                                                    \
    "disk %s is shared with other VMs: unless they are shut off, this backup contains some of "    \
    "their writes and may be unusable"

/*
 * QEMU's NBD server accepts 100 clients by default (since 9.1 and in backports to earlier
 * versions), and libvirt does not change that. Leave some for other tools.
 */
#define FL_SNAPSHOT_SERVER_CLIENTS 90

/* The series, by default "last". */
static inline const char *fl_snapshot_series(const FlSnapshotOptions *options)
{
    return options->series != NULL ? options->series : FL_SERIES_DEFAULT;
}

/* The value of the provider's own option NAME; NULL if not given. */
static inline const char *fl_snapshot_own_option(const FlSnapshotOptions *options, const char *name)
{
    return options->values != NULL ? fl_source_value(options->values, name) : NULL;
}

/* Milliseconds that the guest may stay frozen. */
static inline unsigned fl_snapshot_freeze_limit(const FlSnapshotOptions *options)
{
    return (options->freeze_timeout != 0 ? MIN(options->freeze_timeout, 3600) : 10) * 1000;
}

/* For open and close: initializes a zeroed session; frees what fl_snapshot_init() allocated. */
void fl_snapshot_init(FlSnapshot *backup, const FlProvider *provider,
                      const FlSnapshotOptions *options);
void fl_snapshot_clear(FlSnapshot *backup);

/* Adds a line to the notes or the report. */
void fl_snapshot_note(FlSnapshot *backup, const char *format, ...) G_GNUC_PRINTF(2, 3);
void fl_snapshot_report(FlSnapshot *backup, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Marks the snapshot of DISK, or of all disks, as lost. Only the first reason for a disk is kept.
 */
void fl_snapshot_lose(FlSnapshotDisk *disk, const char *format, ...) G_GNUC_PRINTF(2, 3);
void fl_snapshot_lose_all(FlSnapshot *backup, const char *why);
/* Whether a disk is lost that the caller does not know of yet. */
bool fl_snapshot_newly_lost(const FlSnapshot *backup);
/* Updates the values for fl_snapshot_scratch_use(). */
void fl_snapshot_measure(FlSnapshot *backup);
/* For commit: fails if a disk is lost. */
bool fl_snapshot_none_lost(const FlSnapshot *backup, GError **error);

/* Sets the point in time, to now or the next second that no snapshot used yet, and the snapshot's
 * id. Returns the second. */
gint64 fl_snapshot_set_time(FlSnapshot *backup, const FlJournal *journal);

/*
 * For the wait function of a provider whose VM announces on socket FD anything that may end a
 * snapshot, before it happens: while FD has nothing to read, all snapshots are intact. Call with
 * -1, the initial value, before receiving anything from FD: the VM must then be queried. See
 * fl_snapshot_is_whole().
 */
void fl_snapshot_set_silent(FlSnapshot *backup, int fd);

/* Free bytes in the scratch directory at PATH. */
bool fl_snapshot_free_room(const char *path, uint64_t *room, GError **error);
/*
 * Fails if the scratch directory is too small; adds a note if the disks could fill it. RESERVE:
 * bytes to keep free for the guest's next writes; when less is left, a snapshot must be given up.
 */
bool fl_snapshot_check_room(FlSnapshot *backup, const char *path, uint64_t *reserve,
                            GError **error);
/* The same for a directory on any host with ROOM free bytes. */
bool fl_snapshot_check_this_room(FlSnapshot *backup, const char *path, uint64_t room,
                                 uint64_t *reserve, GError **error);

/*
 * Whether this QEMU version may abort when an NBD client disconnects from an export of a disk in an
 * iothread: "nbd_blockdev_client_closed: Assertion `qemu_in_main_thread() ...'" (fixed in 8.2.3 and
 * 9.0; introduced by the fix for CVE-2024-7409, which distributions backported).
 */
bool fl_snapshot_disconnect_kills(unsigned major, unsigned minor, unsigned micro);
/* Sets the error for DISK in an iothread of such a QEMU. Returns false. */
bool fl_snapshot_refuse_iothread(const char *disk, GError **error);

/* Maximum size in bytes of the scratch image of DISK. */
uint64_t fl_snapshot_most_room(const FlSnapshotDisk *disk);

void fl_snapshot_disk_clear(FlSnapshotDisk *disk);
