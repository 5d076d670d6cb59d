/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blocking operations of a disk: threads that open connections and load maps. Private to disk/.
 *
 * The loop starts a worker, and DONE is called in the loop when it has finished. Pointers passed to
 * it must stay valid until then. CANCEL ends it early, with G_IO_ERROR_CANCELLED.
 */
#pragma once

#include "disk/disk.h"
#include "fingerprint.h"

/* The export that a worker operates on. */
typedef struct {
    FlSource *source;
    FlSource *relay; /* another way to it, which needs no confirmation; NULL: none */
    FlExportInfo *info;
    FlDiskOptions options;
} FlPeer;

/* Delay between attempts in milliseconds: doubled after each one, up to the maximum. */
#define FL_BACKOFF_MIN 100
#define FL_BACKOFF_MAX 5000

/* Result of a worker: CONN, owned by DONE; or MAPS, owned by the worker (DONE may take a
 * reference); or ERROR, owned by the worker. */
typedef void (*FlWorkerDone)(FlConn *conn, FlDiskMaps *maps, const GError *error, gpointer opaque);

/*
 * Opens a connection and verifies that it leads to the disk described by MAPS (NULL: not loaded
 * yet) and FINGERPRINT; otherwise the error is FL_ERROR_CHANGED. Takes a reference to MAPS and a
 * copy of FINGERPRINT. RELAY: through peer->relay, in a short time; the connection is then marked
 * as confirmed.
 */
void fl_worker_connect(const FlPeer *peer, bool relay, FlDiskMaps *maps,
                       const FlFingerprint *fingerprint, GCancellable *cancel, FlWorkerDone done,
                       gpointer opaque);

/* Loads the maps. Retries while the server is unavailable, for `reconnect` seconds. Sets MOVED,
 * atomically, to the time when it has made progress. */
void fl_worker_load(const FlPeer *peer, GCancellable *cancel, gint64 *moved, FlWorkerDone done,
                    gpointer opaque);
