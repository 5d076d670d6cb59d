/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Forgets all backups of a domain: deletes its checkpoints, and bitmaps that belong to no
 * checkpoint of the domain. libvirt forgets the checkpoints of a transient domain when it ends, and
 * those of any domain when it is undefined; the images still list the bitmaps.
 */
#include "snapshot/libvirt/session.h"

#include "source/image/layers.h"
#include "snapshot/point.h"

static bool is_wanted(const char *name, const void *options)
{
    return fl_point_is_ours(name, ((const FlSnapshotOptions *)options)->series);
}

static bool forget_checkpoints(FlLibvirtSession *session, const GPtrArray *checkpoints,
                               GError **error)
{
    bool ok = true;

    for (guint i = 0; i < checkpoints->len; i++) {
        const FlCheckpoint *checkpoint = g_ptr_array_index(checkpoints, i);
        GError **first = ok ? error : NULL;

        if (!checkpoint->ours || !is_wanted(checkpoint->name, session->backup.options))
            continue;
        if (session->running ? fl_libvirt_delete_checkpoint(session, checkpoint, first)
                             : fl_libvirt_delete_metadata(session, checkpoint->name, first))
            fl_snapshot_report(&session->backup, "deleted checkpoint %s", checkpoint->name);
        else
            ok = false;
    }
    return ok;
}

/* Removes stray bitmaps of a running domain. */
static bool forget_stray(FlLibvirtSession *session, const FlDomainDisk *disk, GError **error)
{
    g_autoptr(GPtrArray) layers = fl_image_layers(disk->path, disk->format, true, error);
    bool ok = layers != NULL;

    for (guint i = 0; layers != NULL && i < layers->len; i++) {
        const FlImageLayer *layer = layers->pdata[i];

        for (guint j = 0; j < layer->bitmaps->len; j++) {
            const char *name = layer->bitmaps->pdata[j];

            if (!is_wanted(name, session->backup.options))
                continue;
            if (fl_libvirt_remove_bitmap(session, name, disk->target))
                fl_snapshot_report(&session->backup, "removed bitmap %s of disk %s", name,
                                   disk->target);
            else if (ok)
                ok = fl_fail(error,
                             "disk %s: bitmap %s in %s cannot be removed now; run fleecefs "
                             "--forget when the VM is shut off",
                             disk->target, name, layer->path);
        }
    }
    return ok;
}

static bool forget_disks(FlLibvirtSession *session, GError **error)
{
    bool ok = true;

    for (guint i = 0; i < session->description->disks->len; i++) {
        const FlDomainDisk *disk = g_ptr_array_index(session->description->disks, i);
        GError **first = ok ? error : NULL;

        if (disk->path == NULL || g_strcmp0(disk->format, "qcow2") != 0 || disk->read_only ||
            !g_str_equal(disk->device, "disk"))
            continue;
        if (session->remote != NULL)
            continue;
        if (session->running)
            ok = forget_stray(session, disk, first) && ok;
        else
            ok = fl_image_remove_bitmaps(disk->path, disk->format, is_wanted,
                                         session->backup.options, session->backup.report, first) &&
                 ok;
    }
    return ok;
}

bool fl_libvirt_forget(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    int active = fl_libvirt_active(session, error);
    g_autoptr(GPtrArray) checkpoints = NULL;
    g_autofree char *xml = NULL;

    if (active < 0 || (active > 0 && !fl_libvirt_check_idle(session, error)))
        return false;
    session->running = active > 0;
    xml = fl_libvirt_domain_xml(session, error);
    session->description = xml != NULL ? fl_domain_parse(xml, error) : NULL;
    checkpoints = session->description != NULL ? fl_libvirt_checkpoints(session, error) : NULL;
    if (checkpoints == NULL)
        return false;
    if (session->remote != NULL && !session->running)
        return fl_fail(error, "the VM is shut off, and its images are on another host: start it, "
                              "or run fleecefs --forget there");
    fl_libvirt_find_volumes(session);
    return forget_checkpoints(session, checkpoints, error) && forget_disks(session, error) &&
           (backup->options->series != NULL || fl_journal_remove(session->backup.journal, error));
}
