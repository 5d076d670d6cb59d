/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The times of a disk's pieces, from one backup of a series to the next. */
#pragma once

#include "app/options.h"
#include "snapshot/snapshot.h"

/* Appends to STATE what distinguishes the current state of IMAGE from earlier and later ones. */
void fl_pieces_add_image(GString *state, const FlExportInfo *image);
/* Loads the times stored for the base of ORIGIN, whose disk is INFO, and reports if they do not
 * apply; and chooses the time of changed pieces, which stays the same as long as SPEC, its source,
 * has the same STATE. ONE_DISK: a name in SPEC is that of the disk's folder. */
void fl_pieces_load(FlOrigin *origin, const FlSourceSpec *spec, bool one_disk,
                    const FlOptions *options, const FlExportInfo *info, const char *state);

/* The times of one disk, to be stored by a commit. */
typedef struct FlPieces FlPieces;

/* The times to store for EXPORT, if it gets a restore point, its maps are loaded, and the notes of
 * its place are not those of another disk or series; else NULL. */
FlPieces *fl_pieces_new(FlExport *export, const FlSnapshotOptions *options);
void fl_pieces_free(FlPieces *pieces); /* NULL is fine */
/* The times to store for EXPORT if its snapshot ends without a commit; NULL if its pieces were not
 * listed or read, or none has changed. */
FlPieces *fl_pieces_new_shown(FlExport *export, const FlSnapshotOptions *options);
/* Call before such an end, from any thread. The next snapshot uses them to detect that the disk was
 * rolled back to an older state. */
void fl_pieces_save_shown(const FlPieces *pieces);
/* Call before and after the commit, from any thread. A failure to write costs only reading next
 * time. */
void fl_pieces_save(const FlPieces *pieces);
void fl_pieces_settle(const FlPieces *pieces);

/* The snapshot has ended, in any way: later changes get a later time. Any thread. */
void fl_pieces_ended(const FlSnapshotOptions *options);
