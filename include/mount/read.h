/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The read path: a FUSE READ becomes pieces of a view, the pieces become what is here already and
 * reads of the disk, and all of it one reply. Bytes that were read ahead go from their block to the
 * kernel without a copy in between. An error of any part is the error of the whole: never zeros for
 * what could not be read, nor, once a disk has failed, for what is known to be zeros: a file that
 * can be read in part looks whole. Belongs to the loop.
 */
#pragma once

#include "mount/readahead.h"

#include <fuse_lowlevel.h>

/* What a file reads from; all of it belongs to the caller and outlives the reads. */
typedef struct {
    const FlView *view;
    FlDisk *disk;       /* NULL where no piece is on a disk */
    FlBlocks *blocks;   /* of the disk */
    FlStreams *streams; /* of the file */
    uint64_t readahead; /* bytes; 0: none */
    /* What readahead runs along; NULL: VIEW. It has VIEW's offsets. */
    const FlView *ahead;
    uint64_t ahead_end; /* where readahead ends at the latest; 0: at the view's end */
    /* Called for each piece that reached a reader; may be NULL. */
    void (*delivered)(void *opaque, const FlPiece *piece);
    void *opaque;
} FlReadSource;

/* Replies to REQ with SIZE bytes from OFFSET on, fewer at the end of the file, now or later. */
void fl_read_reply(const FlReadSource *source, fuse_req_t req, size_t size, uint64_t offset);
