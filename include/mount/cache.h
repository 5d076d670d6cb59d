/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blocks of disks that were read ahead and wait to be asked for.
 *
 * Holds read-ahead only: the kernel caches what was read. A block goes as soon as all of it was
 * handed on, so that a stream takes no more memory than its window. All blocks of a mount together
 * stay within a budget. Belongs to the loop.
 */
#pragma once

#include "disk/disk.h"

typedef struct FlCache FlCache;
typedef struct FlBlocks FlBlocks;
typedef struct FlBlock FlBlock;

/* BUDGET is bytes; some of it is set aside for replies to what was not read ahead. */
FlCache *fl_cache_new(uint64_t budget);
void fl_cache_free(FlCache *cache); /* after all its FlBlocks; NULL is fine */
/* Bytes of memory that it takes. */
uint64_t fl_cache_used(const FlCache *cache);

/* The blocks of one disk. */
FlBlocks *fl_blocks_new(FlCache *cache, FlDisk *disk);
void fl_blocks_free(FlBlocks *blocks); /* no read is under way any more; NULL is fine */

/* The range of the disk that a block holds, or will hold when its read is done. */
struct FlBlock {
    FlRead read;
    FlBlocks *blocks;
    uint64_t start, end;
    uint64_t unread; /* bytes that nobody has asked for */
    unsigned refs;   /* the set's, the read's, and one for each that waits or copies */
    bool listed;     /* in the set */
    bool under_way;  /* its read is not done */
    errint_t result; /* of the read */
    GQueue waiters;  /* of FlBlockWaiter, by their links */
    GList lru;
};

typedef struct FlBlockWaiter {
    GList link;
    void (*done)(struct FlBlockWaiter *waiter, FlBlock *block);
} FlBlockWaiter;

/* The block that holds OFFSET, or NULL, and then in *NEXT where the next one starts (UINT64_MAX if
 * there is none). */
FlBlock *fl_blocks_find(FlBlocks *blocks, uint64_t offset, uint64_t *next);

/* The most that a block can hold, in bytes; powers of two waste nothing. */
#define FL_BLOCK_MAX (1u << 20)
/* Starts reading [START, END), of which no part is there. False if there is no room for it. */
bool fl_blocks_fetch(FlBlocks *blocks, uint64_t start, uint64_t end);
/* How many times longer than the fastest of late the blocks take that arrive now: 1 where nothing
 * queues, on the server or here. */
double fl_blocks_slowdown(const FlBlocks *blocks);
/* Lets go of all blocks. */
void fl_blocks_clear(FlBlocks *blocks);

/* LENGTH bytes of the block are being handed on; takes a reference that keeps the bytes until
 * fl_block_unref(). */
void fl_block_take(FlBlock *block, uint64_t length);
void fl_block_unref(FlBlock *block);
static inline const char *fl_block_data(const FlBlock *block)
{
    return block->read.buf;
}
