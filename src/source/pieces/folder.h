/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A folder with the pieces of one disk. Private to source/pieces/.
 *
 * The folder is accepted only if it contains all pieces, each of the right size, and nothing else:
 * missing data must never read as zeros. The state of each piece is remembered; a piece that
 * differs when it is opened later fails the disk. Pieces are opened as they are read; the folder's
 * descriptor stays open. Immutable except for that fault, reference-counted, any thread.
 */
#pragma once

#include "map/map.h"
#include "util/budget.h"

#include <gio/gio.h>
#include <time.h>

typedef struct FlPieceFolder FlPieceFolder;

/* Opens the folder at PATH and checks all its files. What it remembers is charged to BUDGET. */
FlPieceFolder *fl_piece_folder_new(const char *path, FlBudget *budget, GError **error);
FlPieceFolder *fl_piece_folder_ref(FlPieceFolder *folder);
void fl_piece_folder_unref(FlPieceFolder *folder); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlPieceFolder, fl_piece_folder_unref)

uint64_t fl_piece_folder_size(const FlPieceFolder *folder); /* of the disk */
/* The latest times of all pieces. */
struct timespec fl_piece_folder_mtime(const FlPieceFolder *folder);
struct timespec fl_piece_folder_ctime(const FlPieceFolder *folder);

/* Maps the data: holes in the files are holes of the disk. Blocks; CANCEL may be NULL. */
FlMap *fl_piece_folder_map(FlPieceFolder *folder, GCancellable *cancel, GError **error);

/* Fails with FL_ERROR_CHANGED if a piece was found changed. */
bool fl_piece_folder_check(const FlPieceFolder *folder, GError **error);

/* A reader, which keeps one piece open. For one thread at a time. */
typedef struct {
    FlPieceFolder *folder;
    int fd; /* -1: none */
    uint64_t index;
} FlPieceReader;

void fl_piece_reader_init(FlPieceReader *reader, FlPieceFolder *folder);
void fl_piece_reader_clear(FlPieceReader *reader);
/* Reads LENGTH bytes, which must lie within the disk. Blocks. Returns -EIO if they no longer
 * exist. */
errint_t fl_piece_reader_read(FlPieceReader *reader, void *buf, size_t length, uint64_t offset);
