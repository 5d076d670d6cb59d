/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disk split into pieces: EXPORT/split/000000, 000001, ..., files of equal size that
 * concatenate to disk.raw.
 *
 * A piece has no object: it is an index, and its properties are computed from the maps, so a
 * thousand disks of 65,536 pieces cost nothing. Only open pieces are counted. Pieces are read
 * through the view of disk.raw, so a reader that moves from one piece to the next is one stream.
 * Functions that need a view require loaded maps. Call from the loop only.
 */
#pragma once

#include "map/piece-name.h"
#include "map/times.h"
#include "mount/read.h"

#include <time.h>

/* Range of -o split=, in bytes; a power of two. */
#define FL_SPLIT_MIN FL_PIECE_SIZE_MIN
#define FL_SPLIT_MAX (UINT64_C(1) << 30)
/* The default is the smallest piece size, at least FL_SPLIT_DEFAULT, that gives no more than
 * FL_SPLIT_PIECES pieces. */
#define FL_SPLIT_DEFAULT (UINT64_C(4) << 20)
#define FL_SPLIT_PIECES  65536
/* Inode numbers have 32 bits for the folder and 32 for the piece. */
#define FL_SPLIT_PIECES_MAX (UINT64_C(1) << 32)

typedef struct FlSplit FlSplit;

/* Whether SIZE is valid for -o split=. */
bool fl_split_size_valid(uint64_t size);
/* The piece size for a disk of DISK_SIZE bytes; WANTED is the user's choice (0: the default). */
uint64_t fl_split_choose(uint64_t disk_size, uint64_t wanted);

uint64_t fl_split_piece_size(const FlSplit *split);
uint64_t fl_split_count(const FlSplit *split);
/* Whether NAME is the canonical name of a piece. */
bool fl_split_parse(const FlSplit *split, const char *name, uint64_t *index);

/* Piece INDEX, below the count, as a file; the caller unrefs it. */
FlView *fl_split_view(const FlSplit *split, uint64_t index);
/* The range of the disk [*START, *END) that the piece covers. */
void fl_split_range(const FlSplit *split, uint64_t index, uint64_t *start, uint64_t *end);
/* Whether the piece may have changed since the last backup, as far as is known. */
bool fl_split_is_new(FlSplit *split, uint64_t index);
/* The number of changed pieces, and how many of those were read to their end. */
uint64_t fl_split_changed(FlSplit *split);
uint64_t fl_split_changed_read(FlSplit *split);
/* The mtime and ctime of a piece: the point in time of the first snapshot with its current
 * contents, as far as is known. */
void fl_split_times(FlSplit *split, uint64_t index, struct timespec *mtime, struct timespec *ctime);
/* The times of all pieces, to be stored for the next base. The caller frees them. */
FlTimes *fl_split_all_times(FlSplit *split);
/* Whether the time of any piece was requested. */
bool fl_split_was_shown(const FlSplit *split);
/* The source for reads of piece INDEX, addressed by offsets on the disk. */
FlReadSource fl_split_source(FlSplit *split, uint64_t index);
void fl_split_opened(FlSplit *split);
/* A piece without data counts as read when it is closed: st_blocks has told the reader that it is
 * empty. */
void fl_split_closed(FlSplit *split, uint64_t index);
/* A reader was told that [FROM, TO) of the piece is a hole: it counts as delivered. Tools that seek
 * over holes never read the zeros in them, not even new ones. */
void fl_split_skipped(FlSplit *split, uint64_t index, uint64_t from, uint64_t to);
/* As fl_file_xattrs(), but empty except for the disk size on the first piece: tools make two calls
 * per attribute and piece, whether or not the piece has changed, and store a piece again if an
 * attribute differs between snapshots. */
GHashTable *fl_split_xattrs(const FlSplit *split, uint64_t index);
