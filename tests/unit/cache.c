/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Read-ahead: blocks and streams. */
#include "memory.h"

#include "mount/readahead.h"
#include "view/raw.h"

#include <string.h>

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)

typedef struct {
    Memory *memory;
    FlDisk *disk;
    FlCache *cache;
    FlBlocks *blocks;
} World;

static void world_init(World *world, uint64_t size, uint64_t budget)
{
    world->memory = memory_new(size);
    world->disk = memory_disk(world->memory);
    world->cache = fl_cache_new(budget);
    world->blocks = fl_blocks_new(world->cache, world->disk);
}

static void world_clear(World *world)
{
    fl_disk_close(world->disk, g_get_monotonic_time() + 10 * G_USEC_PER_SEC);
    while (g_main_context_iteration(NULL, FALSE))
        continue;
    fl_blocks_free(world->blocks);
    g_assert_cmpuint(fl_cache_used(world->cache), ==, 0);
    fl_cache_free(world->cache);
    fl_disk_unref(world->disk);
    fl_source_unref(&world->memory->source);
}

static FlBlock *find(World *world, uint64_t offset)
{
    uint64_t next;

    return fl_blocks_find(world->blocks, offset, &next);
}

static void test_block(void)
{
    World world;
    uint64_t next;
    FlBlock *block;

    world_init(&world, 64 * MIB, 16 * MIB);
    g_assert_true(fl_blocks_fetch(world.blocks, 3 * KIB, 10 * KIB));
    g_assert_null(fl_blocks_find(world.blocks, 0, &next));
    g_assert_cmpuint(next, ==, 3 * KIB);
    g_assert_null(fl_blocks_find(world.blocks, 10 * KIB, &next));
    g_assert_cmpuint(next, ==, UINT64_MAX);
    block = find(&world, 10 * KIB - 1);
    g_assert_true(block != NULL && block == find(&world, 3 * KIB) && block->under_way);
    run_until(!block->under_way);
    g_assert_cmpint(block->result, ==, 0);
    for (uint64_t i = block->start; i < block->end; i++)
        g_assert_cmpint(fl_block_data(block)[i - block->start], ==, memory_byte(i));

    /* A block is dropped with its last byte, but stays valid while referenced. */
    fl_block_take(block, 4 * KIB);
    fl_block_unref(block);
    g_assert_nonnull(find(&world, 3 * KIB));
    fl_block_take(block, 3 * KIB);
    g_assert_null(find(&world, 3 * KIB));
    g_assert_cmpuint(fl_cache_used(world.cache), >, 0);
    fl_block_unref(block);
    world_clear(&world);
}

/* Half of a small budget is for replies: two blocks fit. */
static void test_budget(void)
{
    World world;

    world_init(&world, 64 * MIB, 4 * MIB);
    g_assert_true(fl_blocks_fetch(world.blocks, 0, MIB));
    g_assert_true(fl_blocks_fetch(world.blocks, MIB, 2 * MIB));
    g_assert_false(fl_blocks_fetch(world.blocks, 2 * MIB, 3 * MIB));
    g_assert_cmpuint(fl_cache_used(world.cache), ==, 2 * MIB);
    run_until(!find(&world, 0)->under_way && !find(&world, MIB)->under_way);

    /* Unused blocks are evicted, oldest first. */
    g_assert_true(fl_blocks_fetch(world.blocks, 2 * MIB, 3 * MIB));
    g_assert_null(find(&world, 0));
    g_assert_nonnull(find(&world, MIB));
    g_assert_cmpuint(fl_cache_used(world.cache), ==, 2 * MIB);
    world_clear(&world);
}

typedef struct {
    FlBlockWaiter waiter; /* first */
    errint_t result;
    bool told;
} Waiter;

static void block_came(FlBlockWaiter *waiter, FlBlock *block)
{
    ((Waiter *)waiter)->told = true;
    ((Waiter *)waiter)->result = block->result;
    fl_block_unref(block);
}

static void wait_for(Waiter *waiter, FlBlock *block)
{
    *waiter = (Waiter){.waiter = {.link = {.data = waiter}, .done = block_came}};
    block->refs++;
    g_queue_push_tail_link(&block->waiters, &waiter->waiter.link);
}

/* Waiters get the error; later readers send a new request. */
static void test_error(void)
{
    World world;
    Waiter waiter;

    world_init(&world, 64 * MIB, 16 * MIB);
    world.memory->held = true;
    g_assert_true(fl_blocks_fetch(world.blocks, 0, 4 * KIB));
    wait_for(&waiter, find(&world, 0));
    run_until(world.memory->reads.length == 1);
    g_assert_false(waiter.told);
    memory_answer(world.memory, EIO);
    run_until(waiter.told);
    g_assert_cmpint(waiter.result, ==, -EIO);
    g_assert_null(find(&world, 0));

    g_assert_true(fl_blocks_fetch(world.blocks, 0, 4 * KIB));
    wait_for(&waiter, find(&world, 0));
    run_until(world.memory->reads.length == 1);
    memory_answer(world.memory, 0);
    run_until(waiter.told);
    g_assert_cmpint(waiter.result, ==, 0);
    g_assert_nonnull(find(&world, 0));
    world_clear(&world);
}

/* Bytes of [START, END) that are cached or requested. */
static uint64_t fetched(World *world, uint64_t start, uint64_t end)
{
    uint64_t bytes = 0;

    while (start < end) {
        uint64_t next;
        const FlBlock *block = fl_blocks_find(world->blocks, start, &next);

        if (block != NULL) {
            bytes += MIN(block->end, end) - start;
            next = block->end;
        }
        start = MIN(next, end);
    }
    return bytes;
}

static void test_sequential(void)
{
    World world;
    g_autoptr(FlView) view = fl_view_raw_new(NULL, NULL, 64 * MIB, 0, 64 * MIB);
    FlStreams *streams = fl_streams_new();
    uint64_t at = 0;

    world_init(&world, 64 * MIB, 64 * MIB);
    fl_streams_note(streams, view, world.blocks, at, 128 * KIB, 4 * MIB, UINT64_MAX);
    g_assert_cmpuint(fetched(&world, 0, 64 * MIB), ==, 0);
    for (at = 128 * KIB; at < 8 * MIB; at += 128 * KIB) {
        fl_streams_note(streams, view, world.blocks, at, 128 * KIB, 4 * MIB, 10 * MIB);
        /* The following data is requested, within the limit and without gaps. */
        g_assert_cmpuint(fetched(&world, at + 128 * KIB, 64 * MIB), >=, 128 * KIB);
        g_assert_cmpuint(fetched(&world, at + 128 * KIB, 64 * MIB), <=, 4 * MIB);
        g_assert_cmpuint(fetched(&world, at + 128 * KIB, at + 256 * KIB), ==, 128 * KIB);
    }
    /* Nothing beyond the end. */
    for (; at < 10 * MIB; at += 128 * KIB)
        fl_streams_note(streams, view, world.blocks, at, 128 * KIB, 4 * MIB, 10 * MIB);
    g_assert_cmpuint(fetched(&world, 10 * MIB, 64 * MIB), ==, 0);
    world_clear(&world);
    fl_streams_free(streams);
}

static void test_random(void)
{
    World world;
    g_autoptr(FlView) view = fl_view_raw_new(NULL, NULL, 64 * MIB, 0, 64 * MIB);
    static const uint64_t offsets[] = {40, 3, 17, 60, 9, 33, 50, 1, 22, 45, 12, 28};
    FlStreams *streams = fl_streams_new();

    world_init(&world, 64 * MIB, 64 * MIB);
    for (size_t i = 0; i < G_N_ELEMENTS(offsets); i++)
        fl_streams_note(streams, view, world.blocks, offsets[i] * MIB, 4 * KIB, 4 * MIB,
                        UINT64_MAX);
    g_assert_cmpuint(fetched(&world, 0, 64 * MIB), ==, 0);
    world_clear(&world);
    fl_streams_free(streams);
}

/* Two interleaved readers of one file. */
static void test_two_streams(void)
{
    World world;
    g_autoptr(FlView) view = fl_view_raw_new(NULL, NULL, 64 * MIB, 0, 64 * MIB);
    FlStreams *streams = fl_streams_new();

    world_init(&world, 64 * MIB, 64 * MIB);
    for (uint64_t at = 0; at < 2 * MIB; at += 128 * KIB) {
        fl_streams_note(streams, view, world.blocks, at, 128 * KIB, 4 * MIB, UINT64_MAX);
        fl_streams_note(streams, view, world.blocks, 32 * MIB + at, 128 * KIB, 4 * MIB, UINT64_MAX);
    }
    g_assert_cmpuint(fetched(&world, 2 * MIB, 2 * MIB + 128 * KIB), ==, 128 * KIB);
    g_assert_cmpuint(fetched(&world, 34 * MIB, 34 * MIB + 128 * KIB), ==, 128 * KIB);
    world_clear(&world);
    fl_streams_free(streams);
}

/* For a dirty-only file, never requests clean bytes, but reads ahead to the next dirty ones. */
static void test_holes(void)
{
    World world;
    FlMapBuilder *builder = fl_map_builder_new();
    g_autoptr(FlMap) dirty = NULL;
    g_autoptr(FlView) view = NULL;
    FlStreams *streams = fl_streams_new();

    /* 64 KiB of each MiB. */
    for (unsigned i = 0; i < 64; i++) {
        fl_map_builder_add(builder, 64 * KIB, FL_DIRTY);
        fl_map_builder_add(builder, MIB - 64 * KIB, 0);
    }
    dirty = fl_map_builder_finish(builder);
    view = fl_view_raw_new(NULL, dirty, 64 * MIB, 0, 64 * MIB);
    world_init(&world, 64 * MIB, 64 * MIB);
    for (unsigned i = 0; i < 8; i++)
        fl_streams_note(streams, view, world.blocks, i * MIB, 64 * KIB, 4 * MIB, UINT64_MAX);
    for (unsigned i = 0; i < 64; i++)
        g_assert_cmpuint(fetched(&world, i * MIB + 64 * KIB, (i + 1) * MIB), ==, 0);
    g_assert_cmpuint(fetched(&world, 8 * MIB, 8 * MIB + 64 * KIB), ==, 64 * KIB);
    g_assert_cmpuint(fetched(&world, 9 * MIB, 9 * MIB + 64 * KIB), ==, 64 * KIB);
    world_clear(&world);
    fl_streams_free(streams);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cache/block", test_block);
    g_test_add_func("/cache/budget", test_budget);
    g_test_add_func("/cache/error", test_error);
    g_test_add_func("/readahead/sequential", test_sequential);
    g_test_add_func("/readahead/random", test_random);
    g_test_add_func("/readahead/two-streams", test_two_streams);
    g_test_add_func("/readahead/holes", test_holes);
    return g_test_run();
}
