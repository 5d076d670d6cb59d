/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finds what a domain's XML omits about its images. */
#include "snapshot/libvirt/session.h"

#include <stdlib.h>

static bool ask_size(FlLibvirtCall *call)
{
    virDomainBlockInfo info = {0};
    bool ok = virDomainGetBlockInfo(call->domain, call->text, &info, 0) == 0;

    call->value = (int64_t)MIN(info.capacity, INT64_MAX);
    return ok;
}

/* Returns the path of VOLUME; NULL unless it is a file or block device. SIZE gets the capacity. */
static char *volume_path(virStorageVolPtr volume, int64_t *size)
{
    virStorageVolInfo info;

    if (virStorageVolGetInfo(volume, &info) < 0 ||
        (info.type != VIR_STORAGE_VOL_FILE && info.type != VIR_STORAGE_VOL_BLOCK))
        return NULL;
    *size = (int64_t)MIN(info.capacity, INT64_MAX);
    return virStorageVolGetPath(volume);
}

/* CALL->text is the pool, CALL->more the volume in it. */
static bool ask_volume(FlLibvirtCall *call)
{
    virStoragePoolPtr pool =
        virStoragePoolLookupByName(virDomainGetConnect(call->domain), call->text);
    virStorageVolPtr volume = pool != NULL ? virStorageVolLookupByName(pool, call->more) : NULL;
    char *path = volume != NULL ? volume_path(volume, &call->value) : NULL;

    if (volume != NULL)
        virStorageVolFree(volume);
    if (pool != NULL)
        virStoragePoolFree(pool);
    return fl_libvirt_call_take(call, path);
}

/* libvirt reports the size of a disk's volume through the domain only while the domain runs. */
static bool add_size(FlLibvirtSession *session, FlDomainDisk *disk, GError **error)
{
    g_autoptr(FlLibvirtCall) size = fl_libvirt_call_new(ask_size, disk->target, NULL);
    g_autoptr(FlLibvirtCall) volume = fl_libvirt_call_new(ask_volume, disk->pool, disk->volume);
    FlLibvirtCall *call = !session->running && disk->pool != NULL ? volume : size;

    if (!fl_libvirt_ask(session, call))
        return fl_libvirt_fail(error, call, "disk %s", disk->target);
    disk->size = (uint64_t)call->value;
    return true;
}

/* A volume that libvirt does not find, for example in an inactive pool, counts as no file. */
static void find_volume(FlLibvirtSession *session, FlDomainDisk *disk)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_volume, disk->pool, disk->volume);

    if (disk->path == NULL && disk->pool != NULL && disk->volume != NULL &&
        fl_libvirt_ask(session, call))
        disk->path = g_strdup(call->string);
}

void fl_libvirt_find_volumes(FlLibvirtSession *session)
{
    for (guint i = 0; i < session->description->disks->len; i++)
        find_volume(session, g_ptr_array_index(session->description->disks, i));
}

bool fl_libvirt_look_at_images(FlLibvirtSession *session, GError **error)
{
    fl_libvirt_find_volumes(session);
    for (guint i = 0; i < session->description->disks->len; i++) {
        FlDomainDisk *disk = g_ptr_array_index(session->description->disks, i);

        fl_libvirt_find_keys(session->remote, disk);
        if (!fl_libvirt_is_wanted(disk, session->running, session->backup.options))
            continue;
        if (!add_size(session, disk, error))
            return false;
    }
    return true;
}
