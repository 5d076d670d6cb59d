/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Read-ahead blocks of disks, waiting to be read.
 *
 * Holds read-ahead only: the kernel caches what was read. A block is freed once all of it was
 * handed on, so a stream takes no more memory than its window. All blocks of a mount together stay
 * within a budget. Call from the loop only.
 */
#pragma once

#include "disk/disk.h"

typedef struct FlCache FlCache;
typedef struct FlBlocks FlBlocks;
typedef struct FlBlock FlBlock;

/* BUDGET is in bytes; part of it is reserved for replies to reads that were not read ahead. */
FlCache *fl_cache_new(uint64_t budget);
void fl_cache_free(FlCache *cache); /* after all its FlBlocks; NULL is fine */
/* Memory in use, in bytes. */
uint64_t fl_cache_used(const FlCache *cache);

/* The blocks of one disk. */
FlBlocks *fl_blocks_new(FlCache *cache, FlDisk *disk);
void fl_blocks_free(FlBlocks *blocks); /* no read may be in progress; NULL is fine */

/* A range of the disk that a block holds, or will hold when its read completes. */
struct FlBlock {
    FlRead read;
    FlBlocks *blocks;
    uint64_t start, end;
    uint64_t unread; /* bytes not requested yet */
    unsigned refs;   /* one for the set, one for the read, one for each waiter or copy */
    bool listed;     /* in the set */
    bool under_way;  /* its read is in progress */
    errint_t result; /* of the read */
    GQueue waiters;  /* of FlBlockWaiter, linked through their link field */
    GList lru;
};

typedef struct FlBlockWaiter {
    GList link;
    void (*done)(struct FlBlockWaiter *waiter, FlBlock *block);
} FlBlockWaiter;

/* The block that holds OFFSET; or NULL, and *NEXT is where the next block starts (UINT64_MAX if
 * there is none). */
FlBlock *fl_blocks_find(FlBlocks *blocks, uint64_t offset, uint64_t *next);

/* Largest block in bytes; powers of two waste no memory. */
#define FL_BLOCK_MAX (1u << 20)
/* Starts reading [START, END), which must not overlap any block. False if over budget. */
bool fl_blocks_fetch(FlBlocks *blocks, uint64_t start, uint64_t end);
/* Current latency of blocks relative to the lowest recent one: 1 if nothing queues, neither on the
 * server nor here. */
double fl_blocks_slowdown(const FlBlocks *blocks);
/* Drops all blocks. */
void fl_blocks_clear(FlBlocks *blocks);

/* Marks LENGTH bytes of the block as requested, and takes a reference that keeps the bytes alive
 * until fl_block_unref(). */
void fl_block_take(FlBlock *block, uint64_t length);
void fl_block_unref(FlBlock *block);
static inline const char *fl_block_data(const FlBlock *block)
{
    return block->read.buf;
}
