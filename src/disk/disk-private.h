/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk, as disk.c and load.c share it. Private to disk/. Call from the loop only. */
#pragma once

#include "confirm.h"
#include "disk/disk.h"
#include "queue.h"
#include "worker.h"

struct FlDisk {
    gatomicrefcount refs;
    FlPeer peer;
    GCancellable *cancel; /* stops the workers */
    char *failure;        /* why all reads fail; NULL: no failure */
    char *condemned;      /* atomic: set by another thread, becomes the failure */
    bool suspended;       /* no connection may be opened */
    bool doubtful;        /* nor until the VM has answered: its server may be ending */
    bool resting;         /* idle connections are closed at once */
    unsigned workers;

    FlDiskMaps *maps;           /* NULL until loaded */
    FlFingerprint *fingerprint; /* samples of bytes read */
    FlConfirm *confirm;         /* NULL: data is delivered on arrival */
    FlWaiters *waiters;         /* for the maps */
    gint64 loading;             /* start time (g_get_monotonic_time()); 0: not loading */
    gint64 load_moved;          /* atomic: when the load last made progress */
    gint64 load_again;          /* earliest time to retry after a failure */

    GPtrArray *conns;   /* of FlConn */
    unsigned conns_max; /* lowered if the server rejects more */
    FlReadQueue queue;  /* reads that wait for a connection */
    GQueue doomed;      /* reads to fail with -EIO in the next iteration of the loop */
    guint doom_source, watch_source, retry_source, throttle_source;
    gint64 connecting;  /* start time; 0: not connecting */
    bool through_relay; /* connecting to that */
    gint64 relay_again; /* when the relay may be tried (g_get_monotonic_time()) */
    bool lost;          /* the next connection replaces one that died */
    gint64 down_since;  /* time of the failure (g_get_monotonic_time()); 0: none */
    guint backoff;      /* milliseconds */
    FlDiskStats stats;
};

/* Fails the disk, with a warning. */
void fl_disk_fail_loudly(FlDisk *disk, const char *why);
/* The same because the export is no longer the same; ERROR says what has changed. */
void fl_disk_fail_changed(FlDisk *disk, const GError *error);
/* Whether the source has failed; if so, condemns the disk. */
bool fl_disk_has_fault(FlDisk *disk);
/* Checks each second, while there are connections or workers, for those that are silent or idle. */
void fl_disk_start_watch(FlDisk *disk);
/* Sends queued reads to connections, and opens more connections if needed. */
void fl_disk_pump(FlDisk *disk);
