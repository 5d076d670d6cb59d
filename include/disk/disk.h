/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk: one export of a source, its maps, and its bytes.
 *
 * A disk belongs to the thread that runs the main context (the loop); unless noted otherwise,
 * functions are called there. Blocking operations (connecting, loading maps) run in workers, which
 * hand their results back to the loop, so there are no locks.
 *
 * Connections are opened on demand and closed when idle. When one dies, its requests wait for the
 * next. If no connection can be opened within `reconnect` seconds, or the export is no longer the
 * same, the disk fails permanently: all reads return -EIO.
 */
#pragma once

#include "disk/waiters.h"
#include "source/source.h"
#include "util/rate.h"
#include "util/throttle.h"
#include "util/workers.h"

#include <time.h>

typedef struct {
    FlWorkers *workers;   /* for connecting and loading; a disk keeps a reference */
    unsigned connections; /* maximum per disk */
    unsigned timeout;     /* seconds of silence before a server counts as gone */
    unsigned reconnect;   /* seconds to try to reconnect; 0: do not try */
    bool keep_open;       /* do not close idle connections */
    bool keep_one;        /* do not close the last one: the server may exit with it */
    FlThrottle *throttle; /* of reads, may be shared by disks; must outlive them; may be NULL */
} FlDiskOptions;

/* Takes a reference to SOURCE, and ownership of INFO. */
FlDisk *fl_disk_new(FlSource *source, FlExportInfo *info, const FlDiskOptions *options);
FlDisk *fl_disk_ref(FlDisk *disk);
void fl_disk_unref(FlDisk *disk); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlDisk, fl_disk_unref)
/*
 * Fails pending reads with -EIO and closes all connections; the disk stays failed. Waits until
 * DEADLINE (g_get_monotonic_time()) for its workers, which fl_disk_fail() has told to stop. A
 * worker that hangs in a name lookup is abandoned; it holds references to all that it uses.
 */
void fl_disk_close(FlDisk *disk, gint64 deadline);

const FlExportInfo *fl_disk_info(const FlDisk *disk);
const char *fl_disk_label(const FlDisk *disk);

/* Starts a read. DONE is called from the loop, never before this returns. */
void fl_disk_read(FlDisk *disk, FlRead *read);
/* No reads are expected soon: idle connections may be closed. */
void fl_disk_rest(FlDisk *disk);

/* Loads the maps unless they are loaded, and calls DONE (possibly before this returns) with 0 or
 * -errno. Concurrent callers share one load; after a failed load, callers trigger another no sooner
 * than a second later. */
void fl_disk_load(FlDisk *disk, FlDiskLoaded done, void *opaque);
/* NULL until the maps are loaded. */
const FlDiskMaps *fl_disk_maps(const FlDisk *disk);

/* Fails the disk: all reads return -EIO from now on. WHY is a message for the user. */
void fl_disk_fail(FlDisk *disk, const char *why);
/* As fl_disk_fail(), from any thread. No byte that arrives after this returns, or that is held at
 * that time, is delivered. */
void fl_disk_condemn(FlDisk *disk, const char *why);

/*
 * Confirmation, for a disk whose server's replies are valid only while the VM's backup job runs:
 * the server does not report the end of the job, and fl_disk_condemn() comes too late for what
 * arrives in between. So bytes and maps are held on arrival until it is confirmed that the job was
 * still running after they arrived.
 *
 * Both callbacks are called in the loop; they must not block, nor call the disk. IS_WHOLE is called
 * on each arrival: true means that the job is known to have been running after the arrival, and
 * delivers it at once. Otherwise ASK returns a number, never lower than the last one. Once a query
 * sent after that call is answered, fl_disk_confirm() with this number or a higher one delivers
 * everything with a number up to it (GOOD), or fails it with -EIO. What waits longer than the
 * timeout in the disk's options fails as well. Set before the first read; without it nothing is
 * held.
 *
 * RELAY, if not NULL, is another way to the same exports, by which nothing arrives that is not
 * confirmed: see fl_snapshot_relay(). Such bytes are not held. While it works, one connection uses
 * it, the one for reads that somebody waits for; its failure is not a failure of the disk.
 */
typedef struct {
    bool (*is_whole)(void *opaque);
    uint64_t (*ask)(void *opaque);
    void *opaque;
    FlSource *relay;
} FlDiskConfirmOps;
void fl_disk_set_confirm(FlDisk *disk, const FlDiskConfirmOps *ops);
void fl_disk_confirm(FlDisk *disk, uint64_t number, bool good);

/* Closes the connections; requests wait until fl_disk_resume(). Operations in worker threads are
 * cancelled, and their connections are closed by the time fl_disk_is_still() returns true. */
void fl_disk_suspend(FlDisk *disk);
bool fl_disk_is_still(const FlDisk *disk);
void fl_disk_resume(FlDisk *disk);
/* Why the disk has failed permanently; NULL if it has not. */
const char *fl_disk_failure(const FlDisk *disk);

typedef struct {
    unsigned connections; /* open now */
    unsigned in_flight;   /* requests sent to a server */
    unsigned queued;      /* requests waiting for a connection */
    bool connecting;
    bool relay;          /* one of the connections goes through the relay */
    uint64_t bytes_read; /* from the server */
    FlRate rate;         /* of them */
    uint64_t requests;
    uint64_t errors;     /* requests that the server rejected */
    uint64_t reconnects; /* connections opened to replace one that died */
} FlDiskStats;
const FlDiskStats *fl_disk_stats(FlDisk *disk);
