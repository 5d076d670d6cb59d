/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources: from what the command line names to exports in the tree. */
#pragma once

#include "source/kind.h"
#include "mount/tree.h"
#include "app/options.h"
#include "app/snapshots.h"

/* What lives as long as the mount. */
typedef struct {
    const FlOptions *options;
    FlBudget *budget; /* of memory, for what sources make us remember */
    FlTree *tree;
    FlCache *cache;
    GPtrArray *sources; /* of FlSource: what disks may connect to again */
    FlSnapshots *snapshots;
    FlDiskOptions snapshot_disk; /* of disks of snapshots */
} FlSources;

/* OPTIONS outlives it. */
void fl_sources_init(FlSources *sources, const FlOptions *options);
/* Ends the servers and frees everything. */
void fl_sources_clear(FlSources *sources);

/* Allows what they will take while they are mounted and when they end. */
void fl_sources_allow(const FlSources *sources, FlSandbox *sandbox);
/* Opens all sources and puts their exports into the tree. */
bool fl_sources_open(FlSources *sources, GError **error);
/* Closes all disks and aborts the snapshots that were not ended; also of what was opened in part.
 * False with an error if something was left in a VM. */
bool fl_sources_close(FlSources *sources, GError **error);

/* Whether TEXT names a VM whose snapshot is to be taken. */
bool fl_source_is_vm(const char *text);
/* Fails if OPTIONS are about snapshots, and no source is a VM. */
bool fl_sources_check_options(const FlOptions *options, GError **error);
/* What backup/ needs to know; strings belong to OPTIONS and SPEC. */
FlSnapshotOptions fl_source_snapshot_options(const FlOptions *options, const FlSourceSpec *spec);

/* What mount(8) shows as the source; to be freed with g_free(). */
char *fl_sources_label(const FlOptions *options);
