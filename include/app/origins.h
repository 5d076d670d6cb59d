/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creates the origin of a disk from information about its source or snapshot. */
#pragma once

#include "mount/origin.h"
#include "snapshot/snapshot.h"
#include "source/kind.h"

/* The origin of EXPORT of a source that is not a VM: SPEC, labelled LABEL. MOUNTED: the point in
 * time if the source reports none. SERIES: from -o series=, may be NULL. Reports bitmaps that are
 * not served. */
FlOrigin *fl_origin_of_export(const FlSourceSpec *spec, const char *label,
                              const FlExportInfo *export, const struct timespec *mounted,
                              const char *series);
/* The origin of DISK of SNAPSHOT, served as INFO. SNAPSHOT and DISK must outlive it. */
FlOrigin *fl_origin_of_snapshot(const FlSourceSpec *spec, const FlSnapshot *snapshot,
                                const FlSnapshotDisk *disk, const FlExportInfo *info);
/* Turns ORIGIN, of a disk of SIZE bytes, into a full backup. Takes ownership of REASON. */
void fl_origin_make_full(FlOrigin *origin, uint64_t size, char *reason);
