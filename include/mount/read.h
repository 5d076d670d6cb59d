/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The read path: splits a FUSE READ into the pieces of a view, takes their bytes from read-ahead
 * blocks or reads them from the disk, and sends one reply. Bytes that were read ahead go from their
 * block to the kernel without an intermediate copy.
 *
 * An error in any part fails the whole read: what cannot be read is never replaced by zeros, and
 * once a disk has failed, even known zeros are refused, since a partly readable file looks intact.
 * Call from the loop only.
 */
#pragma once

#include "mount/readahead.h"

#include <fuse_lowlevel.h>

/* What a file reads from. The caller owns everything in it, and keeps it alive until the reads are
 * done. */
typedef struct {
    const FlView *view;
    FlDisk *disk;       /* NULL if no piece is on a disk */
    FlBlocks *blocks;   /* of the disk */
    FlStreams *streams; /* of the file */
    uint64_t readahead; /* bytes; 0: none */
    /* The view that readahead follows; NULL: VIEW. It has the same offsets as VIEW. */
    const FlView *ahead;
    uint64_t ahead_end; /* readahead stops here; 0: at the end of the view */
    /* Called for each piece that was delivered to a reader; may be NULL. */
    void (*delivered)(void *opaque, const FlPiece *piece);
    void *opaque;
} FlReadSource;

/* Replies to REQ with SIZE bytes from OFFSET, fewer at the end of the file; now or later. */
void fl_read_reply(const FlReadSource *source, fuse_req_t req, size_t size, uint64_t offset);
