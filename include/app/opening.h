/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A source being opened: shared by sources.c and vm.c. Runs in the main thread, before the mount
 * answers.
 */
#pragma once

#include "app/sources.h"

typedef struct {
    FlSources *sources;
    const FlSourceSpec *spec;
    FlSourceParams params;
    const char *folder; /* of all its disks; NULL: the root */
    FlSource *source;   /* most recently opened; owned by SOURCES */
    bool one_disk;      /* the NAME given for the source names the disk's own folder */
} FlOpening;

/* Adds SOURCE, wrapped as the options request, to the sources. Takes ownership of SOURCE; NULL:
 * opening it has failed, and ERROR is set. */
bool fl_opening_take(FlOpening *opening, FlSource *source, GError **error);
/* Adds a disk to the tree, which owns the export. Takes ownership of INFO and ORIGIN. */
FlExport *fl_opening_add(const FlOpening *opening, FlExportInfo *info, FlOrigin *origin,
                         const FlDiskOptions *options, GError **error);
/* The time limit for the server to list its exports. */
FlWait fl_opening_wait(const FlOpening *opening);
