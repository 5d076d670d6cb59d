/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The times of a disk's pieces, from one backup of a series to the next. */
#pragma once

#include "app/options.h"
#include "snapshot/snapshot.h"

/* Adds to STATE what tells IMAGE as it is now from what it was or will be. */
void fl_pieces_add_image(GString *state, const FlExportInfo *image);
/* Finds what is noted of the base of ORIGIN, whose disk is INFO, and says so if that does not
 * count; and decides on the time of what has changed: as long as SPEC, its source, has the same
 * STATE, it stays. ONE_DISK: a name of SPEC is that of the disk's folder. */
void fl_pieces_load(FlOrigin *origin, const FlSourceSpec *spec, bool one_disk,
                    const FlOptions *options, const FlExportInfo *info, const char *state);

/* Notes of one disk that a commit writes. */
typedef struct FlPieces FlPieces;

/* What is to be noted for EXPORT, if it gets a restore point and its maps are loaded; else NULL. */
FlPieces *fl_pieces_new(FlExport *export, const FlSnapshotOptions *options);
void fl_pieces_free(FlPieces *pieces); /* NULL is fine */
/* Before and after the commit; any thread. What cannot be written costs reading next time. */
void fl_pieces_save(const FlPieces *pieces);
void fl_pieces_settle(const FlPieces *pieces);

/* The snapshot has ended, in whatever way: what changes from now on is later. Any thread. */
void fl_pieces_ended(const FlSnapshotOptions *options);
