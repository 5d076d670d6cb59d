/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What blocks, for a disk: threads that open connections and load maps. Private to disk/.
 *
 * The loop starts a worker, and DONE is called there when it has ended. What a worker is given by
 * pointer must last until then; CANCEL ends it early, with G_IO_ERROR_CANCELLED.
 */
#pragma once

#include "disk/disk.h"
#include "fingerprint.h"

/* The export that a worker deals with. */
typedef struct {
    FlSource *source;
    FlExportInfo *info;
    FlDiskOptions options;
} FlPeer;

/* Milliseconds between two attempts: doubled after each, up to the most. */
#define FL_BACKOFF_MIN 100
#define FL_BACKOFF_MAX 5000

/*
 * Opens a connection and sees that it leads to the disk that MAPS (NULL: not loaded yet) and
 * FINGERPRINT tell of; else the error is FL_ERROR_CHANGED. Both are copied or counted here.
 */
void fl_worker_connect(const FlPeer *peer, FlDiskMaps *maps, const FlFingerprint *fingerprint,
                       GCancellable *cancel, GAsyncReadyCallback done, gpointer opaque);
FlConn *fl_worker_connected(GAsyncResult *result, GError **error);

/* Loads the maps. Tries again while the server is away, for as long as `reconnect` says. */
void fl_worker_load(const FlPeer *peer, GCancellable *cancel, GAsyncReadyCallback done,
                    gpointer opaque);
FlDiskMaps *fl_worker_loaded(GAsyncResult *result, GError **error);
