/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots of VMs that are mounted: what commit, abort and the end of the mount do to them.
 *
 * The loop decides; what talks to a VM blocks and is done by a worker. While that runs the disks
 * are suspended: their connections must be closed before the VM ends the exports.
 */
#pragma once

#include "snapshot/snapshot.h"
#include "mount/control.h"
#include "mount/tree.h"

typedef struct FlSnapshots FlSnapshots;

FlSnapshots *fl_snapshots_new(void);
/* Aborts what was neither committed nor aborted. False with an error if that could not be done in
 * full; the next session or --recover does the rest. NULL is fine. */
bool fl_snapshots_end(FlSnapshots *snapshots, GError **error);
void fl_snapshots_free(FlSnapshots *snapshots); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSnapshots, fl_snapshots_free)

/* Takes a snapshot. The strings of OPTIONS must outlive it; the backup belongs to SNAPSHOTS. */
FlSnapshot *fl_snapshots_begin(FlSnapshots *snapshots, const FlSnapshotOptions *options,
                               GError **error);
/* EXPORT, which outlives the snapshots, shows DISK of the snapshot that was begun last. */
void fl_snapshots_add_disk(FlSnapshots *snapshots, const FlSnapshotDisk *disk, FlExport *export);
bool fl_snapshots_is_empty(const FlSnapshots *snapshots);

void fl_snapshots_allow(const FlSnapshots *snapshots, FlSandbox *sandbox);

/* Watches the VMs, and carries out commands from now on; ends the mount by QUIT. */
void fl_snapshots_start(FlSnapshots *snapshots, void (*quit)(void *opaque), void *opaque);
/* How the session reaches it. Belongs to SNAPSHOTS. */
const FlControl *fl_snapshots_control(const FlSnapshots *snapshots);
