/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/cache.h"

#include <malloc.h>
#include <stdlib.h>

/* How long the fastest block remains the reference, in microseconds: latency may rise, for example
 * on a longer route to the server. */
#define FASTEST_EPOCH (10 * G_TIME_SPAN_SECOND)

/* Reserved for demand reads and for connections, in bytes. */
#define REPLIES (6u << 20)
/* Buffer sizes are powers of two from 2^12 to 2^20. */
#define SIZE_BITS_MIN 12
#define SIZES         9

/*
 * Blocks reuse the buffers of freed blocks: malloc would either return each one to the kernel,
 * which clears every page of the next, or keep an unknown amount of them.
 */
struct FlCache {
    uint64_t budget, used;
    uint64_t spare;           /* bytes in SPARES */
    GPtrArray *spares[SIZES]; /* unused buffers, by size */
    GQueue lru;               /* of FlBlock: those in the set, oldest first */
    bool tidy;                /* free the spares with the last block */
};

/* Latency of blocks, in microseconds. */
typedef struct {
    double usual;
    double fastest, fastest_before; /* in this epoch and in the previous one */
    gint64 epoch;                   /* start of the epoch (g_get_monotonic_time()) */
} Pace;

struct FlBlocks {
    FlCache *cache;
    FlDisk *disk;
    GTree *tree; /* of FlBlock by start; they do not overlap */
    Pace pace;
};

FlCache *fl_cache_new(uint64_t budget)
{
    FlCache *cache = g_new0(FlCache, 1);

    cache->budget = budget - MIN(budget / 2, REPLIES);
    for (unsigned i = 0; i < SIZES; i++)
        cache->spares[i] = g_ptr_array_new_with_free_func(free);
    return cache;
}

void fl_cache_free(FlCache *cache)
{
    if (cache == NULL)
        return;
    for (unsigned i = 0; i < SIZES; i++)
        g_ptr_array_unref(cache->spares[i]);
    g_free(cache);
}

uint64_t fl_cache_used(const FlCache *cache)
{
    return cache->used + cache->spare;
}

static uint64_t size_of(unsigned index)
{
    return UINT64_C(1) << (SIZE_BITS_MIN + index);
}

/* Index of the smallest size that holds LENGTH bytes, which must not exceed the largest. */
static unsigned index_for(uint64_t length)
{
    unsigned index = 0;

    while (size_of(index) < length)
        index++;
    return index;
}

/* Takes a spare buffer. */
static void *take_spare(FlCache *cache, unsigned index)
{
    GPtrArray *spares = cache->spares[index];

    cache->spare -= size_of(index);
    return g_ptr_array_steal_index_fast(spares, spares->len - 1);
}

/* Frees a spare buffer; false if there is none. */
static bool drop_spare(FlCache *cache)
{
    for (unsigned i = SIZES; i-- > 0;) {
        if (cache->spares[i]->len > 0) {
            free(take_spare(cache, i));
            return true;
        }
    }
    return false;
}

static void give_back(FlCache *cache, void *buf, unsigned index)
{
    cache->used -= size_of(index);
    cache->spare += size_of(index);
    g_ptr_array_add(cache->spares[index], buf);
}

/* Frees all spares once there are no readers. */
static void tidy_up(FlCache *cache)
{
    if (cache->used > 0 || !cache->tidy)
        return;
    while (drop_spare(cache))
        ;
    malloc_trim(0);
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
    if (--block->refs > 0)
        return;
    give_back(block->blocks->cache, block->read.buf, index_for(block->end - block->start));
    tidy_up(block->blocks->cache);
    g_free(block);
}

/* Removes BLOCK from the set; references keep it alive. */
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
    if (cache->used + cache->spare > 0) {
        cache->tidy = true;
        tidy_up(cache);
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
    /* Later readers ask the server again, and get its error themselves. */
    if (result < 0)
        unlist(block);
    fl_block_unref(block);
}

/* Drops the oldest block; false if there is none, or its buffer is still in use. */
static bool drop_oldest(FlCache *cache)
{
    uint64_t before = cache->used;

    if (cache->lru.length > 0)
        unlist(cache->lru.head->data);
    return cache->used < before;
}

/* Allocates whole pages, as the kernel splices them: for a page shared with other data, it would
 * look up two. NULL if out of memory. */
static void *new_buffer(uint64_t size)
{
    void *buf = NULL;

    return posix_memalign(&buf, size_of(0), size) == 0 ? buf : NULL;
}

/* Gets a buffer within the budget, or NULL. */
static void *find_buffer(FlCache *cache, unsigned index)
{
    while (cache->spares[index]->len == 0) {
        if (cache->used + cache->spare + size_of(index) <= cache->budget)
            return new_buffer(size_of(index));
        if (!drop_spare(cache) && !drop_oldest(cache))
            return NULL;
    }
    return take_spare(cache, index);
}

bool fl_blocks_fetch(FlBlocks *blocks, uint64_t start, uint64_t end)
{
    unsigned index = index_for(end - start);
    void *buf = find_buffer(blocks->cache, index);
    FlBlock *block;

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
    blocks->cache->used += size_of(index);
    blocks->cache->tidy = false;
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
