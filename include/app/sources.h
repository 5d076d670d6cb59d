/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources: turns those named on the command line into exports in the tree. */
#pragma once

#include "source/kind.h"
#include "mount/tree.h"
#include "app/options.h"
#include "app/snapshots.h"

/* State that lives as long as the mount. */
typedef struct {
    const FlOptions *options;
    FlBudget *budget;   /* limits the memory that sources can make us use */
    FlWorkers *workers; /* NULL until sources are opened */
    FlTree *tree;
    FlCache *cache;
    GPtrArray *sources; /* of FlSource: kept for reconnecting */
    FlSnapshots *snapshots;
    FlThrottle throttle;               /* shared by all disks */
    FlDiskOptions disk, snapshot_disk; /* for disks, and for disks of snapshots */
} FlSources;

/* OPTIONS must outlive SOURCES. */
void fl_sources_init(FlSources *sources, const FlOptions *options);
/* Stops the servers and frees everything. */
void fl_sources_clear(FlSources *sources);

/* Allows in SANDBOX what the sources need while mounted and when they end. */
void fl_sources_allow(const FlSources *sources, FlSandbox *sandbox);
/* Opens all sources and adds their exports to the tree. */
bool fl_sources_open(FlSources *sources, GError **error);
/* Closes all disks and aborts snapshots still open, also after a partial fl_sources_open(). False
 * with an error if something was left in a VM. */
bool fl_sources_close(FlSources *sources, GError **error);

/* The sources, paths as absolute ones, without users and passwords; NULL-terminated. Free with
 * g_strfreev(). */
char **fl_sources_labels(const FlOptions *options);
/* The source as shown by mount(8) and --list: the label of the only one, or FL_SOURCES_SEVERAL.
 * Free with g_free(). */
char *fl_sources_label(const FlOptions *options);
#define FL_SOURCES_SEVERAL "fleecefs"
/* The same of a mount of only TEXT, not a server in brackets. Pure but for the working directory.
 */
char *fl_source_text_label(const char *text);
