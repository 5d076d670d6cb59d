/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ext-io.h"

#include "ext-journal.h"

#include <inttypes.h>
#include <string.h>

typedef struct {
    uint64_t block, copy;
    bool escaped;
} Copy;

struct FlExtOverlay {
    uint32_t block_size; /* bytes */
    GHashTable *copies;  /* of Copy, by its block */
};

typedef struct {
    const FlPart *part;
    const FlExtOverlay *overlay;
} Backing;

FlExtOverlay *fl_ext_overlay_new(uint32_t block_size)
{
    FlExtOverlay *overlay = g_new0(FlExtOverlay, 1);

    overlay->block_size = block_size;
    overlay->copies = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
    return overlay;
}

void fl_ext_overlay_free(FlExtOverlay *overlay)
{
    if (overlay == NULL)
        return;
    g_hash_table_unref(overlay->copies);
    g_free(overlay);
}

void fl_ext_overlay_set(FlExtOverlay *overlay, uint64_t block, uint64_t copy, bool escaped)
{
    Copy *entry = g_new(Copy, 1);

    *entry = (Copy){.block = block, .copy = copy, .escaped = escaped};
    g_hash_table_replace(overlay->copies, &entry->block, entry);
}

void fl_ext_overlay_unset(FlExtOverlay *overlay, uint64_t block)
{
    g_hash_table_remove(overlay->copies, &block);
}

uint64_t fl_ext_overlay_find(const FlExtOverlay *overlay, uint64_t block)
{
    const Copy *copy = overlay != NULL ? g_hash_table_lookup(overlay->copies, &block) : NULL;

    return copy != NULL ? copy->copy : block;
}

/* Overwrites parts of BUF with newer versions of blocks. Works on bytes, because libext2fs reads
 * the superblock in other units than blocks. */
static errint_t lay_over(const Backing *backing, char *buf, size_t length, uint64_t offset)
{
    const FlExtOverlay *overlay = backing->overlay;
    uint64_t end = offset + length;

    for (uint64_t at = offset, next; at < end; at = next) {
        uint64_t block = at / overlay->block_size, start = block * overlay->block_size;
        const Copy *copy = g_hash_table_lookup(overlay->copies, &block);
        const char *magic = FL_EXT_JOURNAL_MAGIC;
        errint_t why;

        next = MIN(start + overlay->block_size, end);
        if (copy == NULL)
            continue;
        why = fl_part_read(backing->part, buf + (at - offset), (size_t)(next - at),
                           copy->copy * overlay->block_size + (at - start));
        if (why != 0)
            return why;
        for (uint64_t i = at; copy->escaped && i < MIN(next, start + strlen(magic)); i++)
            buf[i - offset] = magic[i - start];
    }
    return 0;
}

/* A negative COUNT is in bytes, not blocks. */
static errcode_t read_blk64(io_channel channel, unsigned long long block, int count, void *data)
{
    const Backing *backing = channel->private_data;
    size_t size = (size_t)channel->block_size;
    size_t length = count < 0 ? (size_t) - (long)count : (size_t)count * size;
    errint_t why;

    if (block > INT64_MAX / size)
        return EXT2_ET_SHORT_READ;
    why = fl_part_read(backing->part, data, length, block * size);
    if (why == 0 && backing->overlay != NULL)
        why = lay_over(backing, data, length, block * size);
    return why == 0 ? 0 : EXT2_ET_SHORT_READ;
}

static errcode_t read_blk(io_channel channel, unsigned long block, int count, void *data)
{
    return read_blk64(channel, block, count, data);
}

static errcode_t write_blk64(io_channel channel, unsigned long long block, int count,
                             const void *data)
{
    return EXT2_ET_RO_FILSYS;
}

static errcode_t write_blk(io_channel channel, unsigned long block, int count, const void *data)
{
    return EXT2_ET_RO_FILSYS;
}

static errcode_t flush(io_channel channel)
{
    return 0;
}

static errcode_t set_blksize(io_channel channel, int size)
{
    channel->block_size = size;
    return 0;
}

static errcode_t close_channel(io_channel channel)
{
    if (--channel->refcount > 0)
        return 0;
    g_free(channel->private_data);
    ext2fs_free_mem(&channel->name);
    ext2fs_free_mem(&channel);
    return 0;
}

static errcode_t open_channel(const char *name, int flags, io_channel *result);

static struct struct_io_manager manager = {
    .magic = EXT2_ET_MAGIC_IO_MANAGER,
    .name = "fleecefs part",
    .open = open_channel,
    .close = close_channel,
    .set_blksize = set_blksize,
    .read_blk = read_blk,
    .write_blk = write_blk,
    .flush = flush,
    .read_blk64 = read_blk64,
    .write_blk64 = write_blk64,
};

/* NAME is the address of a Backing: open() has no other argument for it. */
static errcode_t open_channel(const char *name, int flags, io_channel *result)
{
    const Backing *backing = (const Backing *)(uintptr_t)g_ascii_strtoull(name, NULL, 16);
    io_channel channel = NULL;
    errcode_t why = ext2fs_get_memzero(sizeof *channel, &channel);

    if (why == 0)
        why = ext2fs_get_memzero(strlen(name) + 1, &channel->name);
    if (why != 0) {
        ext2fs_free_mem(&channel);
        return why;
    }
    strcpy(channel->name, name);
    channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    channel->manager = &manager;
    channel->block_size = 1024;
    channel->refcount = 1;
    channel->private_data = g_memdup2(backing, sizeof *backing);
    *result = channel;
    return 0;
}

errcode_t fl_ext_open(const FlPart *part, const FlExtOverlay *overlay, ext2_filsys *fs)
{
    Backing backing = {.part = part, .overlay = overlay};
    g_autofree char *name = g_strdup_printf("%" PRIxPTR, (uintptr_t)&backing);

    /* Not ext2fs_open(): libtsk has a function of the same name. */
    return ext2fs_open2(name, NULL,
                        EXT2_FLAG_64BITS | EXT2_FLAG_SOFTSUPP_FEATURES |
                            EXT2_FLAG_IGNORE_CSUM_ERRORS | EXT2_FLAG_SKIP_MMP,
                        0, 0, &manager, fs);
}
