/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which image is which. libvirt wants the bitmaps of all disks to be called as the checkpoint, so
 * they cannot tell; what does is noted in the checkpoint's description: keys of the files that each
 * disk was made of. A key outlives a move and another name, and no copy has the same.
 */
#include "snapshot/libvirt/session.h"

#include "snapshot/point.h"

#include <string.h>

/* QEMU itself does not open longer chains. */
#define CHAIN_MAX   200
#define BACKING_MAX 1023

static void look_at(FlRemote *remote, const char *path, FlFacts *facts)
{
    if (remote != NULL)
        fl_remote_facts(remote, path, facts);
    else
        fl_local_facts(path, facts);
}

static uint64_t read_be(const unsigned char *bytes, int n)
{
    uint64_t value = 0;

    for (int i = 0; i < n; i++)
        value = value << 8 | bytes[i];
    return value;
}

/* Version 2 of the format, "compat=0.10". An image that cannot be read is taken for a newer one. */
static bool is_old_qcow2(const FlFacts *facts)
{
    static const char header[8] = {'Q', 'F', 'I', (char)0xfb, 0, 0, 0, 2};

    return facts->length >= sizeof header && memcmp(facts->header, header, sizeof header) == 0;
}

/* The backing file that the qcow2 at PATH, of FACTS, names (QEMU's docs/interop/qcow2: header);
 * NULL if there is none that is a file, or its name is not where QEMU has it. */
static char *backing_of(const char *path, const FlFacts *facts)
{
    char name[BACKING_MAX + 1] = "";
    g_autofree char *folder = g_path_get_dirname(path);
    uint64_t offset, size;

    if (facts->length < 20 || memcmp(facts->header, "QFI\xfb", 4) != 0)
        return NULL;
    offset = read_be(facts->header + 8, 8);
    size = read_be(facts->header + 16, 4);
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
