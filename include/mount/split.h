/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disk in pieces: EXPORT/split/000000, 000001, ..., files of one size whose contents in a row
 * are disk.raw's.
 *
 * A piece has no object: it is a number, and what is asked of it is computed from the maps, so that
 * a thousand disks of 65,536 pieces cost nothing. Only those that are open are counted. Pieces are
 * read through the view of disk.raw, so readers that go from one to the next are one stream. Maps
 * must be loaded wherever a view is needed. Belongs to the loop.
 */
#pragma once

#include "map/piece-name.h"
#include "map/times.h"
#include "mount/read.h"

#include <time.h>

/* Bytes: of -o split=, a power of two. */
#define FL_SPLIT_MIN FL_PIECE_SIZE_MIN
#define FL_SPLIT_MAX (UINT64_C(1) << 30)
/* The default is the smallest size from this on that makes no more than so many pieces. */
#define FL_SPLIT_DEFAULT (UINT64_C(4) << 20)
#define FL_SPLIT_PIECES  65536
/* Numbers of inodes are 32 bits for the folder and 32 for the piece. */
#define FL_SPLIT_PIECES_MAX (UINT64_C(1) << 32)

typedef struct FlSplit FlSplit;

/* Whether it may be given as -o split=. */
bool fl_split_size_valid(uint64_t size);
/* The size of the pieces of a disk of DISK_SIZE bytes, if WANTED (0: the default). */
uint64_t fl_split_choose(uint64_t disk_size, uint64_t wanted);

uint64_t fl_split_piece_size(const FlSplit *split);
uint64_t fl_split_count(const FlSplit *split);
/* Whether NAME is a piece's, in this very spelling. */
bool fl_split_parse(const FlSplit *split, const char *name, uint64_t *index);

/* Piece INDEX, below the count, as a file; the caller unrefs it. */
FlView *fl_split_view(const FlSplit *split, uint64_t index);
/* The disk's range [*START, *END) that it is. */
void fl_split_range(const FlSplit *split, uint64_t index, uint64_t *start, uint64_t *end);
/* Whether it is newer than the last backup, as far as is known. */
bool fl_split_is_new(const FlSplit *split, uint64_t index);
/* How many are, and how many of those were read to their end. */
uint64_t fl_split_changed(const FlSplit *split);
uint64_t fl_split_changed_read(const FlSplit *split);
/* The point in time of the first snapshot in which the piece was as it is now, as far as is known:
 * its mtime and ctime. */
void fl_split_times(FlSplit *split, uint64_t index, struct timespec *mtime, struct timespec *ctime);
/* The times of all pieces, to be noted for what is the base next; to be freed. */
FlTimes *fl_split_all_times(const FlSplit *split);
/* To read the disk from, at the disk's own offsets, for a reader of piece INDEX. */
FlReadSource fl_split_source(FlSplit *split, uint64_t index);
void fl_split_opened(FlSplit *split);
/* Whoever has had a piece open in which there is no data knows so by its st_blocks. */
void fl_split_closed(FlSplit *split, uint64_t index);
/* A reader was told that [FROM, TO) of the piece is a hole: it counts as delivered. Tools that seek
 * over holes read no zeros, also not those that are new. */
void fl_split_skipped(FlSplit *split, uint64_t index, uint64_t from, uint64_t to);
/* As fl_file_xattrs(), but for the size of the disk, which the first piece has, there are none:
 * tools ask twice for each of them, of each piece, whether it has changed or not, and store anew
 * what is another in each snapshot. */
GHashTable *fl_split_xattrs(const FlSplit *split, uint64_t index);
