/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ext2, ext3 and ext4, by libext2fs. Reads inodes in the order of their tables, and the extents of
 * each once; then the folders, for names.
 */
#include "changed/filesystem.h"

#include "ext-io.h"
#include "ext-journal.h"

#include <string.h>
#include <sys/stat.h>

/* Blocks of an inode table to read at a time. */
#define SCAN_BLOCKS 64

typedef struct {
    const FlPart *part;
    const FlExtOverlay *overlay;
    ext2_filsys fs;
    FlChangedList *list;
    GArray *folders;         /* of ext2_ino_t */
    GHashTable *are_folders; /* the same, for lookup; value: whether it has an index */
    size_t inode_size;
    ext2_ino_t folder; /* whose entries are being read */
    bool indexed;      /* whether it has an index */
} Walk;

/* Whether a metadata block changed, in its own place or where its newest version is. */
static bool block_changed(const Walk *walk, uint64_t block)
{
    uint32_t size = walk->fs->blocksize;
    uint64_t copy = fl_ext_overlay_find(walk->overlay, block);

    return block <= INT64_MAX / size &&
           (fl_part_changed(walk->part, size, block * size) > 0 ||
            (copy != block && fl_part_changed(walk->part, size, copy * size) > 0));
}

/* Whether the block of the inode table that holds INO changed. Inodes do not cross blocks. */
static bool inode_changed(const Walk *walk, ext2_ino_t ino)
{
    const struct ext2_super_block *super = walk->fs->super;
    dgrp_t group = (ino - 1) / super->s_inodes_per_group;
    uint64_t offset = (uint64_t)((ino - 1) % super->s_inodes_per_group) * walk->inode_size;
    uint64_t block = ext2fs_inode_table_loc(walk->fs, group) + offset / walk->fs->blocksize;

    if (fl_ext_overlay_find(walk->overlay, block) != block)
        return block_changed(walk, block);
    return fl_part_changed(walk->part, walk->inode_size,
                           block * walk->fs->blocksize + offset % walk->fs->blocksize) > 0;
}

/* Counts COUNT blocks from FIRST on, which begin at block LOGICAL of the file. */
static void measure(Walk *walk, FlChangedFile *file, uint64_t size, uint64_t logical,
                    uint64_t count, uint64_t first)
{
    uint64_t block_size = walk->fs->blocksize, start = logical * block_size;

    if (start < size && first <= INT64_MAX / block_size)
        fl_changed_list_measure(walk->list, file, MIN(count * block_size, size - start),
                                first * block_size);
}

/* *METADATA is set if a block of the extent tree changed. */
static errcode_t walk_extents(Walk *walk, ext2_ino_t ino, struct ext2_inode *inode, uint64_t size,
                              FlChangedFile *file, bool *metadata)
{
    ext2_extent_handle_t handle;
    struct ext2fs_extent extent;
    errcode_t why = ext2fs_extent_open2(walk->fs, ino, inode, &handle);

    if (why != 0)
        return why;
    for (why = ext2fs_extent_get(handle, EXT2_EXTENT_ROOT, &extent); why == 0;
         why = ext2fs_extent_get(handle, EXT2_EXTENT_NEXT, &extent)) {
        if ((extent.e_flags & EXT2_EXTENT_FLAGS_LEAF) == 0) {
            if ((extent.e_flags & EXT2_EXTENT_FLAGS_SECOND_VISIT) == 0)
                *metadata = *metadata || block_changed(walk, extent.e_pblk);
        } else if ((extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT) == 0) {
            measure(walk, file, size, extent.e_lblk, extent.e_len, extent.e_pblk);
        }
    }
    ext2fs_extent_free(handle);
    return why == EXT2_ET_EXTENT_NO_NEXT || why == EXT2_ET_NO_CURRENT_NODE ? 0 : why;
}

typedef struct {
    Walk *walk;
    FlChangedFile *file;
    uint64_t size;
    bool metadata;
} Blocks;

static int on_block(ext2_filsys fs, blk64_t *block, e2_blkcnt_t logical, blk64_t ref_block,
                    int ref_offset, void *opaque)
{
    Blocks *blocks = opaque;

    if (logical < 0)
        blocks->metadata = blocks->metadata || block_changed(blocks->walk, *block);
    else
        measure(blocks->walk, blocks->file, blocks->size, (uint64_t)logical, 1, *block);
    return 0;
}

/* For files without extents, as in ext2 and ext3. */
static errcode_t walk_blocks(Walk *walk, ext2_ino_t ino, uint64_t size, FlChangedFile *file,
                             bool *metadata)
{
    Blocks blocks = {.walk = walk, .file = file, .size = size};
    errcode_t why =
        ext2fs_block_iterate3(walk->fs, ino, BLOCK_FLAG_READ_ONLY, NULL, on_block, &blocks);

    *metadata = *metadata || blocks.metadata;
    return why;
}

static int64_t change_time(const struct ext2_inode_large *inode, size_t size)
{
    int64_t time = (int32_t)inode->i_ctime;

    /* ext4: the two lowest bits of the extra field extend the 32 bits of seconds. */
    if (size >= G_STRUCT_OFFSET(struct ext2_inode_large, i_ctime_extra) + 4 &&
        inode->i_extra_isize >=
            G_STRUCT_OFFSET(struct ext2_inode_large, i_ctime_extra) + 4 - EXT2_GOOD_OLD_INODE_SIZE)
        time += (int64_t)(inode->i_ctime_extra & 3) << 32;
    return time;
}

static bool has_blocks(const struct ext2_inode *inode)
{
    return LINUX_S_ISREG(inode->i_mode) || LINUX_S_ISDIR(inode->i_mode) ||
           (LINUX_S_ISLNK(inode->i_mode) && !ext2fs_is_fast_symlink((struct ext2_inode *)inode));
}

static void note_folder(Walk *walk, ext2_ino_t ino, const struct ext2_inode *inode)
{
    g_array_append_val(walk->folders, ino);
    g_hash_table_insert(walk->are_folders, GUINT_TO_POINTER(ino),
                        GINT_TO_POINTER((inode->i_flags & EXT2_INDEX_FL) != 0));
}

/* Adds the changed data of INODE to FILE, and changed blocks of its block map to METADATA. */
static errcode_t walk_data(Walk *walk, ext2_ino_t ino, struct ext2_inode *inode,
                           FlChangedFile *file, bool *metadata)
{
    uint64_t size = file->folder ? UINT64_MAX : EXT2_I_SIZE(inode);
    errcode_t why;

    if ((inode->i_flags & EXT4_INLINE_DATA_FL) != 0) {
        if (*metadata) {
            file->how = FL_CHANGED_DATA;
            file->bytes = file->folder ? 0 : size;
        }
        return 0;
    }
    if (!has_blocks(inode))
        return 0;
    why = (inode->i_flags & EXT4_EXTENTS_FL) != 0
              ? walk_extents(walk, ino, inode, size, file, metadata)
              : walk_blocks(walk, ino, size, file, metadata);
    if (file->bytes > 0) {
        file->how = FL_CHANGED_DATA;
        file->by_time = false;
    }
    return why;
}

static void walk_inode(Walk *walk, ext2_ino_t ino, struct ext2_inode_large *large)
{
    struct ext2_inode *inode = EXT2_INODE(large);
    FlChangedFile file = {
        .id = ino,
        .how = FL_CHANGED_METADATA,
        .folder = LINUX_S_ISDIR(inode->i_mode),
        .by_time = true,
        .time = change_time(large, walk->inode_size),
    };
    bool metadata = inode_changed(walk, ino);
    blk64_t attributes = ext2fs_file_acl_block(walk->fs, inode);

    if (inode->i_links_count == 0) {
        /* An inode that was never used has no mode and no time. */
        file.how = FL_CHANGED_DELETED;
        if (metadata && inode->i_mode != 0 && file.time != 0)
            fl_changed_list_add(walk->list, &file);
        return;
    }
    fl_changed_list_observe(walk->list, file.time);
    if (file.folder)
        note_folder(walk, ino, inode);
    if (attributes != 0)
        metadata = metadata || block_changed(walk, attributes);
    if (walk_data(walk, ino, inode, &file, &metadata) != 0)
        fl_changed_list_fault(walk->list);
    if (metadata || file.bytes > 0)
        fl_changed_list_add(walk->list, &file);
}

/* Whether INODE is internal to the file system: reserved inodes, inodes of large extended
 * attributes, and the orphan file, whose number is not reserved. */
static bool is_internal(const Walk *walk, ext2_ino_t ino, const struct ext2_inode_large *inode)
{
    const struct ext2_super_block *super = walk->fs->super;

    return (ino != EXT2_ROOT_INO && ino < EXT2_FIRST_INODE(super)) ||
           (inode->i_flags & EXT4_EA_INODE_FL) != 0 ||
           (ext2fs_has_feature_orphan_file(walk->fs->super) && ino == super->s_orphan_file_inum);
}

static errcode_t walk_inodes(Walk *walk)
{
    size_t size = MAX(walk->inode_size, sizeof(struct ext2_inode_large));
    g_autofree struct ext2_inode_large *inode = g_malloc0(size);
    ext2_inode_scan scan;
    ext2_ino_t ino;
    errcode_t why = ext2fs_open_inode_scan(walk->fs, SCAN_BLOCKS, &scan);

    if (why != 0)
        return why;
    for (;;) {
        why = ext2fs_get_next_inode_full(scan, &ino, EXT2_INODE(inode), (int)size);
        if (why == EXT2_ET_BAD_BLOCK_IN_INODE_TABLE) {
            fl_changed_list_fault(walk->list);
            continue;
        }
        if (why != 0 || ino == 0)
            break;
        if (!is_internal(walk, ino, inode))
            walk_inode(walk, ino, inode);
    }
    ext2fs_close_inode_scan(scan);
    return why;
}

/* Whether BLOCK of a folder is part of its index, which looks like removed entries: it follows an
 * empty entry, or the entry "..". */
static bool is_index(const Walk *walk, char *block)
{
    /* Aligned: blocks are, and the first entry has 12 bytes. */
    struct ext2_dir_entry *first = (void *)block, *second = (void *)(block + 12);
    unsigned length, size = walk->fs->blocksize;

    if (!walk->indexed || ext2fs_get_rec_len(walk->fs, first, &length) != 0)
        return false;
    if (length == 12 && ext2fs_dirent_name_len(first) == 1 && first->name[0] == '.')
        return ext2fs_get_rec_len(walk->fs, second, &length) == 0 && length == size - 12;
    return first->inode == 0 && length == size;
}

static int on_entry(ext2_ino_t folder, int kind, struct ext2_dir_entry *entry, int offset,
                    int block_size, char *buf, void *opaque)
{
    Walk *walk = opaque;
    char name[EXT2_NAME_LEN + 1];
    size_t length = (size_t)ext2fs_dirent_name_len(entry);

    if (kind == DIRENT_DOT_FILE || kind == DIRENT_DOT_DOT_FILE || entry->inode == 0 || length == 0)
        return 0;
    memcpy(name, entry->name, length);
    name[length] = 0;
    /* Inline folders have these two, too. Names that could escape the folder are rejected. */
    if (g_str_equal(name, ".") || g_str_equal(name, ".."))
        return 0;
    if (kind == DIRENT_DELETED_FILE && is_index(walk, buf))
        return 0;
    if (strlen(name) != length || strchr(name, '/') != NULL) {
        /* The remains of removed entries may contain anything: not a fault. */
        if (kind != DIRENT_DELETED_FILE)
            fl_changed_list_fault(walk->list);
        return 0;
    }
    fl_changed_list_name(walk->list, walk->folder, entry->inode, name,
                         g_hash_table_contains(walk->are_folders, GUINT_TO_POINTER(entry->inode)),
                         kind == DIRENT_DELETED_FILE);
    return 0;
}

static void walk_folders(Walk *walk)
{
    g_autofree char *buf = g_malloc(walk->fs->blocksize);

    for (guint i = 0; i < walk->folders->len; i++) {
        walk->folder = g_array_index(walk->folders, ext2_ino_t, i);
        walk->indexed =
            g_hash_table_lookup(walk->are_folders, GUINT_TO_POINTER(walk->folder)) != NULL;
        if (ext2fs_dir_iterate2(walk->fs, walk->folder, DIRENT_FLAG_INCLUDE_REMOVED, buf, on_entry,
                                walk) != 0)
            fl_changed_list_fault(walk->list);
    }
}

static uint64_t journal_place(void *opaque, uint32_t at)
{
    ext2_filsys fs = opaque;
    blk64_t block = 0;

    return ext2fs_bmap2(fs, fs->super->s_journal_inum, NULL, NULL, 0, at, NULL, &block) == 0 ? block
                                                                                             : 0;
}

static bool journal_read(void *opaque, uint64_t block, void *buf)
{
    ext2_filsys fs = opaque;

    return io_channel_read_blk64(fs->io, block, 1, buf) == 0;
}

static bool replay_journal(ext2_filsys fs, FlExtOverlay *overlay, GError **error)
{
    const FlExtJournal journal = {
        .block_size = fs->blocksize, .place = journal_place, .read = journal_read, .opaque = fs};

    if (fs->super->s_journal_inum == 0)
        return fl_fail(error, "it is on another device");
    return fl_ext_journal_replay(&journal, overlay, error);
}

/* If the guest was not frozen, reads blocks from the journal instead of their own place. */
static errcode_t replay(const FlPart *part, FlWalk *result, FlExtOverlay **overlay, ext2_filsys *fs)
{
    g_autoptr(GError) why = NULL;

    if (!ext2fs_has_feature_journal_needs_recovery((*fs)->super))
        return 0;
    *overlay = fl_ext_overlay_new((*fs)->blocksize);
    if (!replay_journal(*fs, *overlay, &why))
        g_string_append_printf(result->warnings,
                               "%s: the journal is not completely read: %s: the latest changes may "
                               "be missing; freeze the guest for snapshots (-o agent=)\n",
                               part->path, why->message);
    ext2fs_close_free(fs);
    return fl_ext_open(part, *overlay, fs);
}

FlChangedList *fl_walk_ext(const FlPart *part, FlWalk *result, GError **error)
{
    g_autoptr(FlChangedList) list = fl_changed_list_new(part, EXT2_ROOT_INO, result->extents);
    g_autoptr(FlExtOverlay) overlay = NULL;
    Walk walk = {.part = part, .list = list};
    errcode_t why;

    initialize_ext2_error_table();
    why = fl_ext_open(part, NULL, &walk.fs);
    if (why == 0)
        why = replay(part, result, &overlay, &walk.fs);
    if (why == 0) {
        walk.overlay = overlay;
        walk.inode_size = EXT2_INODE_SIZE(walk.fs->super);
        walk.folders = g_array_new(FALSE, FALSE, sizeof(ext2_ino_t));
        walk.are_folders = g_hash_table_new(NULL, NULL);
        why = walk_inodes(&walk);
        if (why == 0)
            walk_folders(&walk);
        g_array_unref(walk.folders);
        g_hash_table_unref(walk.are_folders);
        ext2fs_close_free(&walk.fs);
    }
    if (why != 0) {
        fl_fail(error, "%s: ext: %s", part->path, error_message(why));
        return NULL;
    }
    return g_steal_pointer(&list);
}
