/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk: one export of a source, its maps, and its bytes.
 *
 * A disk belongs to the thread that runs the main context (the loop), and every function here is
 * called there. What blocks (connecting, loading maps) is done by workers, which hand their result
 * back to the loop; so there are no locks.
 *
 * Connections are opened when first needed and closed when idle. When one dies its requests wait
 * for the next. If none can be opened within `reconnect` seconds, or the export is no longer the
 * same, the disk has failed for good: every read ends in -EIO.
 */
#pragma once

#include "disk/waiters.h"
#include "source/source.h"
#include "util/rate.h"

#include <time.h>

typedef struct {
    unsigned connections; /* at most so many per disk */
    unsigned timeout;     /* seconds of silence before a server counts as gone */
    unsigned reconnect;   /* seconds to try to get it back; 0: not at all */
    bool keep_open;       /* do not close idle connections */
    bool keep_one;        /* do not close the last: the server may end with it */
} FlDiskOptions;

/* Keeps a reference to SOURCE, and takes over INFO. */
FlDisk *fl_disk_new(FlSource *source, FlExportInfo *info, const FlDiskOptions *options);
FlDisk *fl_disk_ref(FlDisk *disk);
void fl_disk_unref(FlDisk *disk); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlDisk, fl_disk_unref)
/*
 * Fails what is under way with -EIO and closes all connections; the disk stays failed. Its workers,
 * which fl_disk_fail() has told to end, are waited for until DEADLINE (g_get_monotonic_time()): one
 * that hangs in a look-up of a name is left behind, and has all that it needs.
 */
void fl_disk_close(FlDisk *disk, gint64 deadline);

const FlExportInfo *fl_disk_info(const FlDisk *disk);
const char *fl_disk_label(const FlDisk *disk);

/* Reads; DONE is called from the loop, never before this returns. */
void fl_disk_read(FlDisk *disk, FlRead *read);
/* Nobody is about to read: connections need not be kept open for it. */
void fl_disk_rest(FlDisk *disk);

/* Loads the maps unless they are loaded, and calls DONE (possibly before this returns) with 0 or
 * -errno. Several callers share one load; a load that failed is tried again by a caller a second
 * later. */
void fl_disk_load(FlDisk *disk, FlDiskLoaded done, void *opaque);
/* NULL until they are loaded. */
const FlDiskMaps *fl_disk_maps(const FlDisk *disk);

/* The disk may not be used any more: all reads end in -EIO from now on. WHY is for people. */
void fl_disk_fail(FlDisk *disk, const char *why);
/* The same from any thread: no byte that arrives after this returns, or is held then, is handed on.
 */
void fl_disk_condemn(FlDisk *disk, const char *why);

/*
 * A disk whose server's replies are valid only while the VM's backup job runs: it says nothing when
 * that ends, and fl_disk_condemn() comes too late for what arrived between. So bytes and maps that
 * arrive are held until it is known that all was still well after they had arrived.
 *
 * Both functions are called in the loop; they must not block, nor call the disk. IS_WHOLE is called
 * each time that something has arrived: true, and it is handed on at once, since it is known that
 * all was still well after the arrival. Else ASK returns a number, never less than the last one.
 * When the answer to a question that was put after that is there, fl_disk_confirm() with this
 * number, or a higher one, hands on all that has a number up to it (GOOD), or fails it with -EIO.
 * What waits for longer than the timeout of the disk's options fails as well. Before the first
 * read; without it nothing is held.
 */
typedef struct {
    bool (*is_whole)(void *opaque);
    uint64_t (*ask)(void *opaque);
    void *opaque;
} FlDiskVouch;
void fl_disk_set_confirm(FlDisk *disk, const FlDiskVouch *vouch);
void fl_disk_confirm(FlDisk *disk, uint64_t number, bool good);

/* Closes the connections; what is asked waits until fl_disk_resume(). What a thread has under way
 * is cancelled, and its connection is closed as well when the disk is still. */
void fl_disk_suspend(FlDisk *disk);
bool fl_disk_is_still(const FlDisk *disk);
void fl_disk_resume(FlDisk *disk);
/* Why the disk has failed for good; NULL if it has not. */
const char *fl_disk_failure(const FlDisk *disk);

typedef struct {
    unsigned connections; /* open now */
    unsigned in_flight;   /* requests that a server has */
    unsigned queued;      /* requests that wait for a connection */
    bool connecting;
    uint64_t bytes_read; /* from the server */
    FlRate rate;         /* of them */
    uint64_t requests;
    uint64_t errors;     /* requests that the server refused */
    uint64_t reconnects; /* connections opened in place of one that died */
} FlDiskStats;
const FlDiskStats *fl_disk_stats(FlDisk *disk);
