/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading ahead of sequential readers, along the data of a view and not along the bytes of its
 * file: holes, zeros and made-up bytes cost nothing and are passed over, and the next extents may
 * be anywhere on the disk. A clean byte of a dirty-only file is never asked for.
 *
 * A file keeps a few streams, so that several readers of one file do not disturb each other. A
 * stream's window grows while its reader finds himself waiting. Belongs to the loop.
 */
#pragma once

#include "mount/cache.h"
#include "view/view.h"

typedef struct FlStreams FlStreams;

FlStreams *fl_streams_new(void);
void fl_streams_free(FlStreams *streams); /* NULL is fine */

/* Somebody reads [OFFSET, OFFSET + LENGTH) of VIEW, whose disk has BLOCKS. Starts reading up to
 * LIMIT bytes of what is likely to come next, and nothing from END on. */
void fl_streams_note(FlStreams *streams, const FlView *view, FlBlocks *blocks, uint64_t offset,
                     uint64_t length, uint64_t limit, uint64_t end);
