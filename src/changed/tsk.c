/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * NTFS, FAT, exFAT and HFS+, by libtsk of The Sleuth Kit.
 *
 * NTFS has a table of all files (MFT), whose records contain the names: a walk over it finds all
 * files. The others are walked folder by folder.
 *
 * libtsk must not detect the type itself: it would call its ext2fs_open(), and get the function of
 * the same name in libext2fs.
 */
#include "changed/filesystem.h"

#include <string.h>
#include <tsk/libtsk.h>

#define NTFS_FIRST_USER 24 /* lower records are internal to the file system */

typedef struct {
    const FlPart *part;
    TSK_FS_INFO *fs;
    FlChangedList *list;
    /* NTFS: extents of the MFT, and size of its records. */
    GArray *table; /* of FlExtent */
    uint64_t record_size;
    GHashTable *changed_folders; /* FAT: set of pointers to ids */
} Walk;

/* An image of libtsk, with our own data. */
typedef struct {
    TSK_IMG_INFO info;
    const FlPart *part;
} Image;

static ssize_t read_image(TSK_IMG_INFO *img, TSK_OFF_T offset, char *buf, size_t length)
{
    const FlPart *part = ((Image *)(void *)img)->part;
    size_t n;

    if (offset < 0 || (uint64_t)offset >= part->size)
        return -1;
    n = MIN(length, part->size - (uint64_t)offset);
    return fl_part_read(part, buf, n, (uint64_t)offset) == 0 ? (ssize_t)n : -1;
}

static void close_image(TSK_IMG_INFO *img)
{
}

static void describe_image(TSK_IMG_INFO *img, FILE *file)
{
}

static bool is_ntfs(const Walk *walk)
{
    return TSK_FS_TYPE_ISNTFS(walk->fs->ftype);
}

static bool is_fat(const Walk *walk)
{
    return TSK_FS_TYPE_ISFAT(walk->fs->ftype);
}

static bool is_folder(const TSK_FS_META *meta)
{
    return meta->type == TSK_FS_META_TYPE_DIR;
}

/* Measures the contents of a non-resident attribute. */
static void measure(Walk *walk, const TSK_FS_ATTR *attr, FlChangedFile *file)
{
    uint64_t block_size = walk->fs->block_size;
    uint64_t size = is_ntfs(walk) ? (uint64_t)MAX(attr->nrd.initsize, 0) : (uint64_t)attr->size;

    for (const TSK_FS_ATTR_RUN *run = attr->nrd.run; run != NULL; run = run->next) {
        uint64_t start = run->offset * block_size, length;

        if ((run->flags & (TSK_FS_ATTR_RUN_FLAG_SPARSE | TSK_FS_ATTR_RUN_FLAG_FILLER)) != 0 ||
            run->addr > walk->fs->last_block || run->len > walk->fs->block_count ||
            run->offset > INT64_MAX / block_size)
            continue;
        length = run->len * block_size;
        /* Blocks past a file's end are stale. A compressed file takes less than its size. */
        if (!file->folder && (attr->flags & TSK_FS_ATTR_COMP) == 0)
            length = start < size ? MIN(length, size - start) : 0;
        fl_changed_list_measure(walk->list, file, length, run->addr * block_size);
    }
}

/* Whether the MFT record of an NTFS file changed. */
static bool record_changed(const Walk *walk, uint64_t id)
{
    uint64_t at = id * walk->record_size;

    for (guint i = 0; i < walk->table->len; i++) {
        FlExtent part = g_array_index(walk->table, FlExtent, i);
        uint64_t length = part.end - part.start;

        if (at < length)
            return fl_part_changed(walk->part, walk->record_size, part.start + at) > 0;
        at -= length;
    }
    return false;
}

static bool is_deleted(const TSK_FS_FILE *file)
{
    return (file->meta->flags & TSK_FS_META_FLAG_UNALLOC) != 0 ||
           (file->name != NULL && (file->name->flags & TSK_FS_NAME_FLAG_UNALLOC) != 0);
}

/* Measures all attributes. Returns whether the contents are resident, with their size in *SIZE
 * (bytes). */
static bool measure_all(Walk *walk, TSK_FS_FILE *file, FlChangedFile *changed, uint64_t *size)
{
    int n = tsk_fs_file_attr_getsize(file);
    bool resident = false;

    for (int i = 0; i < n; i++) {
        const TSK_FS_ATTR *attr = tsk_fs_file_attr_get_idx(file, i);

        if (attr == NULL)
            continue;
        if ((attr->flags & TSK_FS_ATTR_NONRES) != 0) {
            measure(walk, attr, changed);
        } else if (attr->type == TSK_FS_ATTR_TYPE_NTFS_DATA) {
            resident = true;
            *size += (uint64_t)attr->size;
        }
    }
    return resident;
}

/* METADATA: the file's metadata may have changed. KNOWN: its times show whether it has. */
static void add(Walk *walk, TSK_FS_FILE *file, bool metadata, bool known)
{
    FlChangedFile changed = {
        .id = file->meta->addr,
        .how = FL_CHANGED_METADATA,
        .folder = is_folder(file->meta),
        .by_time = known,
        .time = file->meta->ctime,
    };
    uint64_t size = 0;
    bool resident;

    if (is_deleted(file)) {
        /* Deletion does not update the times. */
        changed.how = FL_CHANGED_DELETED;
        changed.by_time = false;
        if (metadata)
            fl_changed_list_add(walk->list, &changed);
        return;
    }
    fl_changed_list_observe(walk->list, changed.time);
    resident = measure_all(walk, file, &changed, &size);
    if (changed.bytes > 0) {
        changed.how = FL_CHANGED_DATA;
        changed.by_time = false;
    } else if (metadata && resident && size > 0) {
        changed.how = FL_CHANGED_DATA;
        changed.bytes = size;
    }
    if (changed.folder && changed.bytes > 0)
        g_hash_table_add(walk->changed_folders, g_memdup2(&changed.id, sizeof changed.id));
    if (metadata || changed.bytes > 0)
        fl_changed_list_add(walk->list, &changed);
}

static bool is_name(const char *name)
{
    return name[0] != 0 && strchr(name, '/') == NULL && !g_str_equal(name, ".") &&
           !g_str_equal(name, "..");
}

static TSK_WALK_RET_ENUM on_record(TSK_FS_FILE *file, void *opaque)
{
    Walk *walk = opaque;
    const TSK_FS_META *meta = file->meta;

    if (meta->type != TSK_FS_META_TYPE_REG && meta->type != TSK_FS_META_TYPE_DIR &&
        meta->type != TSK_FS_META_TYPE_LNK)
        return TSK_WALK_CONT;
    if (meta->addr >= NTFS_FIRST_USER || meta->addr == walk->fs->root_inum)
        add(walk, file, record_changed(walk, meta->addr), true);
    for (const TSK_FS_META_NAME_LIST *name = meta->name2; name != NULL; name = name->next) {
        if (is_name(name->name))
            fl_changed_list_name(walk->list, name->par_inode, meta->addr, name->name,
                                 is_folder(meta), is_deleted(file));
    }
    return TSK_WALK_CONT;
}

/* Whether NAME is a virtual file that libtsk adds to the root folder. */
static bool is_made_up(const Walk *walk, const TSK_FS_NAME *name)
{
    static const char *const names[] = {
        "$ACT",          "$ALLOC_BITMAP", "$AllocationFile", "$AttributesFile",
        "$BadBlockFile", "$CatalogFile",  "$ExtentsFile",    "$StartupFile",
        "$TEX_FAT",      "$UPCASE_TABLE", "$VOLUME_GUID",
    };

    if (name->par_addr != walk->fs->root_inum)
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (g_str_equal(name->name, names[i]))
            return true;
    }
    return g_str_has_suffix(name->name, " (Volume Label Entry)");
}

static TSK_WALK_RET_ENUM on_entry(TSK_FS_FILE *file, const char *path, void *opaque)
{
    Walk *walk = opaque;
    uint64_t parent = file->name->par_addr;

    if (!is_name(file->name->name) || is_made_up(walk, file->name))
        return TSK_WALK_CONT;
    if (file->meta == NULL) {
        if ((file->name->flags & TSK_FS_NAME_FLAG_ALLOC) != 0)
            fl_changed_list_fault(walk->list);
        return TSK_WALK_CONT;
    }
    if (file->meta->type != TSK_FS_META_TYPE_REG && file->meta->type != TSK_FS_META_TYPE_DIR &&
        file->meta->type != TSK_FS_META_TYPE_LNK)
        return TSK_WALK_CONT;
    if (is_fat(walk))
        /* FAT: a file's only metadata is its folder entry, without a time of change. */
        add(walk, file, g_hash_table_contains(walk->changed_folders, &parent), false);
    else
        add(walk, file, true, true);
    fl_changed_list_name(walk->list, parent, file->meta->addr, file->name->name,
                         is_folder(file->meta), is_deleted(file));
    return TSK_WALK_CONT;
}

/* Locates the MFT. */
static bool find_table(Walk *walk)
{
    uint8_t boot[512];
    TSK_FS_FILE *file;
    const TSK_FS_ATTR *attr;
    int8_t size;

    if (fl_part_read(walk->part, boot, sizeof boot, 0) != 0)
        return false;
    /* Boot sector, 0x40: record size in clusters or, if negative, as a power of two of bytes. */
    size = (int8_t)boot[0x40];
    walk->record_size =
        size > 0 ? (uint64_t)size * walk->fs->block_size : UINT64_C(1) << MIN(-size, 20);
    file = tsk_fs_file_open_meta(walk->fs, NULL, 0);
    attr = file != NULL ? tsk_fs_file_attr_get_type(file, TSK_FS_ATTR_TYPE_NTFS_DATA, 0, 0) : NULL;
    for (const TSK_FS_ATTR_RUN *run = attr != NULL ? attr->nrd.run : NULL; run != NULL;
         run = run->next) {
        FlExtent part = {.start = run->addr * walk->fs->block_size,
                         .end = (run->addr + run->len) * walk->fs->block_size};

        if (run->addr <= walk->fs->last_block && run->len <= walk->fs->block_count)
            g_array_append_val(walk->table, part);
    }
    if (file != NULL)
        tsk_fs_file_close(file);
    return walk->table->len > 0;
}

static bool walk_ntfs(Walk *walk)
{
    TSK_FS_META_FLAG_ENUM flags =
        TSK_FS_META_FLAG_ALLOC | TSK_FS_META_FLAG_UNALLOC | TSK_FS_META_FLAG_USED;

    return find_table(walk) && tsk_fs_meta_walk(walk->fs, walk->fs->first_inum, walk->fs->last_inum,
                                                flags, on_record, walk) == 0;
}

static bool walk_folders(Walk *walk)
{
    TSK_FS_DIR_WALK_FLAG_ENUM flags = TSK_FS_DIR_WALK_FLAG_ALLOC | TSK_FS_DIR_WALK_FLAG_UNALLOC |
                                      TSK_FS_DIR_WALK_FLAG_RECURSE | TSK_FS_DIR_WALK_FLAG_NOORPHAN;
    TSK_FS_FILE *root = tsk_fs_file_open_meta(walk->fs, NULL, walk->fs->root_inum);

    if (root == NULL || root->meta == NULL)
        return false;
    add(walk, root, false, false);
    tsk_fs_file_close(root);
    return tsk_fs_dir_walk(walk->fs, walk->fs->root_inum, flags, on_entry, walk) == 0;
}

static FlChangedList *walk_part(const FlPart *part, TSK_FS_TYPE_ENUM type, FlWalk *result,
                                GError **error)
{
    g_autoptr(FlChangedList) list = NULL;
    Walk walk = {.part = part};
    Image image = {.part = part};
    TSK_IMG_INFO *info = tsk_img_open_external(&image, (TSK_OFF_T)part->size, 512, read_image,
                                               close_image, describe_image);
    bool ok = info != NULL;

    walk.fs = ok ? tsk_fs_open_img(info, 0, type) : NULL;
    if (walk.fs != NULL) {
        list = fl_changed_list_new(part, walk.fs->root_inum, result->extents);
        walk.list = list;
        walk.table = g_array_new(FALSE, FALSE, sizeof(FlExtent));
        walk.changed_folders = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
        ok = is_ntfs(&walk) ? walk_ntfs(&walk) : walk_folders(&walk);
        g_hash_table_unref(walk.changed_folders);
        g_array_unref(walk.table);
        tsk_fs_close(walk.fs);
    }
    if (list == NULL || !ok) {
        const char *why = tsk_error_get();

        fl_fail(error, "%s: %s", part->path, why != NULL ? why : "cannot be read");
    }
    if (info != NULL)
        tsk_img_close(info);
    return list != NULL && ok ? g_steal_pointer(&list) : NULL;
}

FlChangedList *fl_walk_ntfs(const FlPart *part, FlWalk *result, GError **error)
{
    return walk_part(part, TSK_FS_TYPE_NTFS, result, error);
}

FlChangedList *fl_walk_fat(const FlPart *part, FlWalk *result, GError **error)
{
    return walk_part(part, TSK_FS_TYPE_FAT_DETECT, result, error);
}

FlChangedList *fl_walk_exfat(const FlPart *part, FlWalk *result, GError **error)
{
    return walk_part(part, TSK_FS_TYPE_EXFAT, result, error);
}

FlChangedList *fl_walk_hfs(const FlPart *part, FlWalk *result, GError **error)
{
    return walk_part(part, TSK_FS_TYPE_HFS, result, error);
}
