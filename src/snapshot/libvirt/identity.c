/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which image is which. libvirt wants the bitmaps of all disks to be called as the checkpoint, so
 * they cannot tell; what does is noted in the checkpoint's description: keys of the files that each
 * disk was made of. A key outlives a move and another name, and no copy has the same.
 */
#include "snapshot/libvirt/session.h"

#include "snapshot/point.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* QEMU itself does not open longer chains. */
#define CHAIN_MAX   200
#define BACKING_MAX 1023

/* The UUID that the device mapper gave the volume DEVICE; NULL if it is none. */
static char *volume_uuid(unsigned major, unsigned minor)
{
    g_autofree char *path = g_strdup_printf("/sys/dev/block/%u:%u/dm/uuid", major, minor);
    char *uuid = NULL;

    if (!g_file_get_contents(path, &uuid, NULL, NULL))
        return NULL;
    return g_strchomp(uuid);
}

/* A file is known by its number and the time when it was made, as far as the file system tells. */
static char *describe(const char *path)
{
    g_autofree char *uuid = NULL;
    struct statx st;

    if (statx(AT_FDCWD, path, AT_STATX_SYNC_AS_STAT, STATX_TYPE | STATX_INO | STATX_BTIME, &st) < 0)
        return g_strconcat("path ", path, NULL);
    if (S_ISREG(st.stx_mode) && (st.stx_mask & STATX_BTIME) != 0)
        return g_strdup_printf("file %" G_GUINT64_FORMAT " %" G_GINT64_FORMAT ".%u",
                               (guint64)st.stx_ino, (gint64)st.stx_btime.tv_sec,
                               st.stx_btime.tv_nsec);
    if (S_ISREG(st.stx_mode))
        return g_strdup_printf("file %" G_GUINT64_FORMAT " %s", (guint64)st.stx_ino, path);
    uuid = S_ISBLK(st.stx_mode) ? volume_uuid(st.stx_rdev_major, st.stx_rdev_minor) : NULL;
    return uuid != NULL ? g_strconcat("volume ", uuid, NULL) : g_strconcat("path ", path, NULL);
}

static uint64_t read_be(const unsigned char *bytes, int n)
{
    uint64_t value = 0;

    for (int i = 0; i < n; i++)
        value = value << 8 | bytes[i];
    return value;
}

/* The backing file that the qcow2 at PATH names (QEMU's docs/interop/qcow2: header); NULL if there
 * is none that is a file. */
static char *backing_of(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    unsigned char header[20];
    char name[BACKING_MAX + 1] = "";
    g_autofree char *folder = g_path_get_dirname(path);
    uint64_t offset, size;
    bool ok = fd >= 0 && pread(fd, header, sizeof header, 0) == sizeof header &&
              memcmp(header, "QFI\xfb", 4) == 0;

    if (ok) {
        offset = read_be(header + 8, 8);
        size = read_be(header + 16, 4);
        ok = offset > 0 && offset < G_MAXINT32 && size > 0 && size <= BACKING_MAX &&
             pread(fd, name, size, (off_t)offset) == (ssize_t)size;
    }
    if (fd >= 0)
        close(fd);
    if (!ok || g_str_has_prefix(name, "json:"))
        return NULL;
    return g_canonicalize_filename(g_str_has_prefix(name, "file:") ? name + strlen("file:") : name,
                                   folder);
}

void fl_libvirt_find_keys(FlDomainDisk *disk)
{
    g_autofree char *path = g_strdup(disk->path);

    g_ptr_array_set_size(disk->keys, 0);
    if (path == NULL && disk->remote != NULL)
        g_ptr_array_add(disk->keys, fl_point_binding("remote", disk->remote, NULL));
    for (int i = 0; path != NULL && i < CHAIN_MAX; i++) {
        g_autofree char *what = describe(path);
        char *next = g_strcmp0(disk->format, "qcow2") == 0 ? backing_of(path) : NULL;

        g_ptr_array_add(disk->keys, fl_point_binding("image", what, NULL));
        /* For checkpoints of earlier versions and other tools, whose XML names the file. */
        g_ptr_array_add(disk->keys, g_strconcat("path:", path, NULL));
        g_free(path);
        path = next;
    }
}

char *fl_libvirt_join_keys(const FlDomainDisk *disk)
{
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < disk->keys->len; i++) {
        const char *key = g_ptr_array_index(disk->keys, i);
        if (!g_str_has_prefix(key, "path:"))
            g_string_append_printf(text, ",%s", key);
    }
    return g_string_free(text, FALSE);
}

static bool has_key(const GPtrArray *keys, const char *key)
{
    return g_ptr_array_find_with_equal_func((GPtrArray *)keys, key, g_str_equal, NULL);
}

/* Whether only WHOSE of the disks of CHECKPOINT has KEY; a template may be under several. */
static bool is_only_ones(const FlCheckpoint *checkpoint, const char *key,
                         const FlCheckpointDisk *whose)
{
    GHashTableIter iter;
    gpointer other;

    g_hash_table_iter_init(&iter, checkpoint->disks);
    while (g_hash_table_iter_next(&iter, NULL, &other)) {
        if (other != whose && has_key(((const FlCheckpointDisk *)other)->keys, key))
            return false;
    }
    return true;
}

const FlCheckpointDisk *fl_libvirt_recognize(const FlCheckpoint *checkpoint,
                                             const FlDomainDisk *disk)
{
    const FlCheckpointDisk *found = NULL;
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, checkpoint->disks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const FlCheckpointDisk *candidate = value;
        bool shares = false;

        for (guint i = 0; i < candidate->keys->len; i++) {
            const char *key = g_ptr_array_index(candidate->keys, i);
            shares =
                shares || (has_key(disk->keys, key) && is_only_ones(checkpoint, key, candidate));
        }
        if (shares && found != NULL)
            return NULL;
        if (shares)
            found = candidate;
    }
    return found;
}
