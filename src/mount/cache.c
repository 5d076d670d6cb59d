/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/cache.h"

#include <malloc.h>

/* The way to a server may get longer: after so long a fastest block no longer counts. Microseconds.
 */
#define FASTEST_EPOCH (10 * G_USEC_PER_SEC)

struct FlCache {
    uint64_t budget, used;
    GQueue lru;       /* of FlBlock: those that are there, the oldest first */
    bool keeps_freed; /* malloc may keep memory that blocks had */
};

/* What blocks take to arrive, in microseconds. */
typedef struct {
    double usual;
    double fastest, fastest_before; /* in this epoch and in the one before */
    gint64 epoch;                   /* when it began (g_get_monotonic_time()) */
} Pace;

struct FlBlocks {
    FlCache *cache;
    FlDisk *disk;
    GTree *tree; /* of FlBlock by start; they do not overlap */
    Pace pace;
};

/*
 * Blocks come and go by the thousand, and glibc would give each back to the kernel, which has to
 * clear every page of the next: a third of the time of a stream. So freed memory is kept while the
 * stream lasts, and goes when nobody has a block any more.
 */
static void keep_freed_memory(uint64_t budget)
{
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    mallopt(M_TRIM_THRESHOLD, (int)MIN(budget, G_MAXINT));
}

FlCache *fl_cache_new(uint64_t budget)
{
    FlCache *cache = g_new0(FlCache, 1);

    cache->budget = budget;
    keep_freed_memory(budget);
    return cache;
}

void fl_cache_free(FlCache *cache)
{
    g_free(cache);
}

uint64_t fl_cache_used(const FlCache *cache)
{
    return cache->used;
}

static int compare_offsets(gconstpointer a, gconstpointer b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

FlBlocks *fl_blocks_new(FlCache *cache, FlDisk *disk)
{
    FlBlocks *blocks = g_new0(FlBlocks, 1);

    blocks->cache = cache;
    blocks->disk = fl_disk_ref(disk);
    blocks->tree = g_tree_new(compare_offsets);
    return blocks;
}

void fl_block_unref(FlBlock *block)
{
    FlCache *cache;

    if (--block->refs > 0)
        return;
    cache = block->blocks->cache;
    cache->used -= block->end - block->start;
    g_free(block->read.buf);
    g_free(block);
}

/* Nobody finds it any more; who holds it keeps it. */
static void unlist(FlBlock *block)
{
    if (!block->listed)
        return;
    block->listed = false;
    g_tree_remove(block->blocks->tree, &block->start);
    if (!block->under_way && block->result == 0)
        g_queue_unlink(&block->blocks->cache->lru, &block->lru);
    fl_block_unref(block);
}

void fl_blocks_clear(FlBlocks *blocks)
{
    FlCache *cache = blocks->cache;
    GTreeNode *node;

    while ((node = g_tree_node_first(blocks->tree)) != NULL)
        unlist(g_tree_node_value(node));
    if (cache->used == 0 && cache->keeps_freed) {
        cache->keeps_freed = false;
        malloc_trim(0);
    }
}

void fl_blocks_free(FlBlocks *blocks)
{
    if (blocks == NULL)
        return;
    fl_blocks_clear(blocks);
    g_tree_unref(blocks->tree);
    fl_disk_unref(blocks->disk);
    g_free(blocks);
}

FlBlock *fl_blocks_find(FlBlocks *blocks, uint64_t offset, uint64_t *next)
{
    GTreeNode *above = g_tree_upper_bound(blocks->tree, &offset);
    GTreeNode *below = above != NULL ? g_tree_node_previous(above) : g_tree_node_last(blocks->tree);
    FlBlock *block = below != NULL ? g_tree_node_value(below) : NULL;

    *next = above != NULL ? ((FlBlock *)g_tree_node_value(above))->start : UINT64_MAX;
    return block != NULL && offset < block->end ? block : NULL;
}

static void note_pace(Pace *pace, gint64 now, gint64 asked)
{
    double took = (double)MAX(now - asked, 1);

    if (pace->epoch == 0)
        pace->usual = pace->fastest = took;
    if (now - pace->epoch > FASTEST_EPOCH) {
        pace->fastest_before = pace->fastest;
        pace->fastest = took;
        pace->epoch = now;
    }
    pace->fastest = MIN(pace->fastest, took);
    pace->usual += (took - pace->usual) / 8;
}

double fl_blocks_slowdown(const FlBlocks *blocks)
{
    const Pace *pace = &blocks->pace;

    if (pace->epoch == 0)
        return 1;
    return MAX(1, pace->usual / MIN(pace->fastest, pace->fastest_before));
}

static void block_done(FlRead *read, errint_t result)
{
    FlBlock *block = (FlBlock *)read;

    block->under_way = false;
    block->result = result;
    if (result == 0)
        note_pace(&block->blocks->pace, g_get_monotonic_time(), read->since);
    if (block->listed && result == 0)
        g_queue_push_tail_link(&block->blocks->cache->lru, &block->lru);
    for (GList *l; (l = g_queue_pop_head_link(&block->waiters)) != NULL;) {
        FlBlockWaiter *waiter = l->data;
        waiter->done(waiter, block);
    }
    /* Who comes later asks the server again, and hears of the error for himself. */
    if (result < 0)
        unlist(block);
    fl_block_unref(block);
}

/* Makes room by dropping what has waited longest. */
static bool make_room(FlCache *cache, uint64_t length)
{
    while (cache->used + length > cache->budget && cache->lru.length > 0) {
        uint64_t before = cache->used;

        unlist(cache->lru.head->data);
        if (cache->used == before)
            break; /* somebody is copying it */
    }
    return cache->used + length <= cache->budget;
}

bool fl_blocks_fetch(FlBlocks *blocks, uint64_t start, uint64_t end)
{
    FlBlock *block;
    void *buf = NULL;

    if (make_room(blocks->cache, end - start))
        buf = g_try_malloc(end - start);
    if (buf == NULL)
        return false;
    block = g_new0(FlBlock, 1);
    block->blocks = blocks;
    block->start = start;
    block->end = end;
    block->unread = end - start;
    block->refs = 2;
    block->listed = true;
    block->under_way = true;
    block->lru.data = block;
    block->read.buf = buf;
    block->read.length = end - start;
    block->read.offset = start;
    block->read.ahead = true;
    block->read.done = block_done;
    blocks->cache->used += end - start;
    blocks->cache->keeps_freed = true;
    g_tree_insert(blocks->tree, &block->start, block);
    fl_disk_read(blocks->disk, &block->read);
    return true;
}

void fl_block_take(FlBlock *block, uint64_t length)
{
    length = MIN(length, block->unread);
    block->refs++;
    block->unread -= length;
    if (block->unread == 0)
        unlist(block);
}
