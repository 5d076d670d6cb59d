/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Identifies images. libvirt requires that the bitmaps of all disks have the checkpoint's name, so
 * the names cannot identify a disk. Instead the checkpoint's description stores keys of the files
 * that each disk consisted of. A key survives moves and renames, and no copy has the same key.
 */
#include "snapshot/libvirt/session.h"

#include "snapshot/point.h"
#include "util/endian.h"

#include <string.h>

/* QEMU itself opens no longer chains. */
#define CHAIN_MAX   200
#define BACKING_MAX 1023

static void look_at(FlRemote *remote, const char *path, FlFacts *facts)
{
    if (remote != NULL)
        fl_remote_facts(remote, path, facts);
    else
        fl_local_facts(path, facts);
}

/* Whether it is qcow2 version 2, "compat=0.10". An unreadable image is assumed to be newer. */
static bool is_old_qcow2(const FlFacts *facts)
{
    static const char header[8] = {'Q', 'F', 'I', (char)0xfb, 0, 0, 0, 2};

    return facts->length >= sizeof header && memcmp(facts->header, header, sizeof header) == 0;
}

/* Returns the backing file that the qcow2 image at PATH, with FACTS, names (QEMU
 * docs/interop/qcow2, header); NULL if it names none, the name is not a file, or the name lies
 * where QEMU would not put it. */
static char *backing_of(const char *path, const FlFacts *facts)
{
    char name[BACKING_MAX + 1] = "";
    g_autofree char *folder = g_path_get_dirname(path);
    uint64_t offset, size;

    if (facts->length < 20 || memcmp(facts->header, "QFI\xfb", 4) != 0)
        return NULL;
    offset = fl_be64(facts->header + 8);
    size = fl_be32(facts->header + 16);
    if (offset == 0 || size == 0 || size > BACKING_MAX || offset > facts->length ||
        size > facts->length - offset)
        return NULL;
    memcpy(name, facts->header + offset, size);
    if (g_str_has_prefix(name, "json:"))
        return NULL;
    return g_canonicalize_filename(g_str_has_prefix(name, "file:") ? name + strlen("file:") : name,
                                   folder);
}

void fl_libvirt_find_keys(FlRemote *remote, FlDomainDisk *disk)
{
    g_autofree char *path = g_strdup(disk->path);

    g_ptr_array_set_size(disk->keys, 0);
    if (path == NULL && disk->remote != NULL)
        g_ptr_array_add(disk->keys, fl_point_binding("remote", disk->remote, NULL));
    for (int i = 0; path != NULL && i < CHAIN_MAX; i++) {
        g_autofree FlFacts *facts = g_new0(FlFacts, 1);
        char *next = NULL;

        look_at(remote, path, facts);
        if (g_strcmp0(disk->format, "qcow2") == 0) {
            next = backing_of(path, facts);
            disk->no_bitmaps = disk->no_bitmaps || (i == 0 && is_old_qcow2(facts));
        }
        g_ptr_array_add(disk->keys, fl_point_binding("image", facts->what, NULL));
        g_free(facts->what);
        /* For checkpoints of earlier fleecefs versions and other tools, whose XML names the
         * file. */
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

/* Whether WHOSE is the only disk of CHECKPOINT with KEY; several disks may share a template. */
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
