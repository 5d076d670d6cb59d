/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A folder with the pieces of one disk. Private to source/pieces/.
 *
 * It is taken for the disk only if it has all pieces, each with the size that it must have, and
 * nothing else: what is missing must never read as zeros. What each piece was then is remembered,
 * and one that is another when it is opened later fails the disk. Descriptors of pieces are opened
 * as they are read; one of the folder stays open. Immutable but for that fault, counted, any
 * thread.
 */
#pragma once

#include "map/map.h"
#include "util/budget.h"

#include <gio/gio.h>
#include <time.h>

typedef struct FlPieceFolder FlPieceFolder;

/* Opens the folder at PATH and looks at all of its files. What it remembers is taken from BUDGET.
 */
FlPieceFolder *fl_piece_folder_new(const char *path, FlBudget *budget, GError **error);
FlPieceFolder *fl_piece_folder_ref(FlPieceFolder *folder);
void fl_piece_folder_unref(FlPieceFolder *folder); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlPieceFolder, fl_piece_folder_unref)

uint64_t fl_piece_folder_size(const FlPieceFolder *folder); /* of the disk */
/* The latest of all pieces. */
struct timespec fl_piece_folder_mtime(const FlPieceFolder *folder);
struct timespec fl_piece_folder_ctime(const FlPieceFolder *folder);

/* What is data: the files' own holes are the disk's. Blocks; CANCEL may be NULL. */
FlMap *fl_piece_folder_map(FlPieceFolder *folder, GCancellable *cancel, GError **error);

/* FL_ERROR_CHANGED if a piece was found to be another than it was. */
bool fl_piece_folder_check(const FlPieceFolder *folder, GError **error);

/* A reader, with one piece open at a time. One thread at a time. */
typedef struct {
    FlPieceFolder *folder;
    int fd; /* -1: none */
    uint64_t index;
} FlPieceReader;

void fl_piece_reader_init(FlPieceReader *reader, FlPieceFolder *folder);
void fl_piece_reader_clear(FlPieceReader *reader);
/* Reads all of it, which lies on the disk. Blocks. -EIO where it is not there any more. */
errint_t fl_piece_reader_read(FlPieceReader *reader, void *buf, size_t length, uint64_t offset);
