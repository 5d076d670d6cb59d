/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots of mounted VMs: what commit, abort and the end of the mount do to them.
 *
 * The loop decides; operations on a VM block and run in a worker. Meanwhile the disks are
 * suspended: their connections must be closed before the VM removes the exports.
 */
#pragma once

#include "snapshot/snapshot.h"
#include "mount/control.h"
#include "mount/tree.h"

typedef struct FlSnapshots FlSnapshots;

FlSnapshots *fl_snapshots_new(void);
/* Aborts snapshots that were neither committed nor aborted. False with an error if the cleanup is
 * incomplete; the next session or --recover completes it. NULL is fine. */
bool fl_snapshots_end(FlSnapshots *snapshots, GError **error);
void fl_snapshots_free(FlSnapshots *snapshots); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSnapshots, fl_snapshots_free)

/* Takes a snapshot, which SNAPSHOTS owns. The strings of OPTIONS must outlive it. */
FlSnapshot *fl_snapshots_begin(FlSnapshots *snapshots, const FlSnapshotOptions *options,
                               GError **error);
/* EXPORT, which must outlive the snapshots, serves DISK of the most recent snapshot. RELAY is that
 * of FlDiskConfirmOps; may be NULL. */
void fl_snapshots_add_disk(FlSnapshots *snapshots, const FlSnapshotDisk *disk, FlExport *export,
                           FlSource *relay);
bool fl_snapshots_is_empty(const FlSnapshots *snapshots);
/* fl_snapshot_missing() of all of them, NULL-terminated. */
char **fl_snapshots_missing(const FlSnapshots *snapshots);

void fl_snapshots_allow(const FlSnapshots *snapshots, FlSandbox *sandbox);

/* Starts watching the VMs and accepting commands, which run in WORKERS; these must outlive
 * SNAPSHOTS. Calls QUIT to end the mount. */
void fl_snapshots_start(FlSnapshots *snapshots, FlWorkers *workers, void (*quit)(void *opaque),
                        void *opaque);
/* The command handler for the session. Owned by SNAPSHOTS. */
const FlControl *fl_snapshots_control(const FlSnapshots *snapshots);
