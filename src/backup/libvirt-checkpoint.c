/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoints: libvirt's metadata, and a bitmap of that name on each disk. All bitmaps record all
 * the time, so one may go without a word to the others, also from between those of other tools.
 */
#include "backup/libvirt-session.h"

#include "backup/point.h"

#include <libvirt/virterror.h>
#include <string.h>

static char *checkpoint_xml(virDomainCheckpointPtr checkpoint, unsigned flags, GError **error)
{
    char *xml = virDomainCheckpointGetXMLDesc(checkpoint, flags);
    char *copy = g_strdup(xml);

    if (xml == NULL)
        fl_libvirt_fail(error, "checkpoint");
    free(xml);
    return copy;
}

static bool add_checkpoint(GPtrArray *array, virDomainCheckpointPtr handle, GError **error)
{
    g_autofree char *xml = checkpoint_xml(handle, VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN, error);
    FlCheckpoint *checkpoint = xml != NULL ? fl_checkpoint_parse(xml, error) : NULL;

    if (checkpoint != NULL)
        g_ptr_array_add(array, checkpoint);
    return checkpoint != NULL;
}

GPtrArray *fl_libvirt_checkpoints(FlLibvirtSession *session, GError **error)
{
    g_autoptr(GPtrArray) array = g_ptr_array_new_with_free_func((GDestroyNotify)fl_checkpoint_free);
    virDomainCheckpointPtr *handles = NULL;
    bool ok = true;
    int n;

    do
        n = virDomainListAllCheckpoints(session->domain, &handles, 0);
    while (n < 0 && fl_libvirt_again(session, fl_libvirt_patience(session)));
    if (n < 0) {
        fl_libvirt_fail(error, "checkpoints");
        return NULL;
    }
    for (int i = 0; i < n; i++) {
        ok = ok && add_checkpoint(array, handles[i], error);
        virDomainCheckpointFree(handles[i]);
    }
    free(handles);
    return ok ? g_steal_pointer(&array) : NULL;
}

/* One attempt; 0 or libvirt's error code. */
static int try_delete(FlLibvirtSession *session, const char *name, unsigned flags, GError **error)
{
    virDomainCheckpointPtr checkpoint = virDomainCheckpointLookupByName(session->domain, name, 0);
    int code = VIR_ERR_OK;

    if (checkpoint == NULL || virDomainCheckpointDelete(checkpoint, flags) < 0) {
        code = virGetLastErrorCode();
        fl_libvirt_fail(error, "checkpoint %s", name);
    }
    if (checkpoint != NULL)
        virDomainCheckpointFree(checkpoint);
    return code == VIR_ERR_NO_DOMAIN_CHECKPOINT ? VIR_ERR_OK : code;
}

static int delete_with(FlLibvirtSession *session, const char *name, unsigned flags, GError **error)
{
    g_autoptr(GError) failure = NULL;
    int code;

    do {
        g_clear_error(&failure);
        code = try_delete(session, name, flags, &failure);
    } while (code != VIR_ERR_OK && fl_libvirt_again(session, fl_libvirt_patience(session)));
    if (code != VIR_ERR_OK)
        g_propagate_error(error, g_steal_pointer(&failure));
    return code;
}

static bool delete_checkpoint(FlLibvirtSession *session, const char *name, GError **error)
{
    g_autoptr(GError) failure = NULL;
    int code = delete_with(session, name, 0, &failure);

    /* A bitmap that QEMU did not get to store cannot be removed, nor need be. */
    if ((code == VIR_ERR_INTERNAL_ERROR || code == VIR_ERR_CHECKPOINT_INCONSISTENT) &&
        delete_with(session, name, VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY, NULL) == VIR_ERR_OK)
        return true;
    if (code != VIR_ERR_OK)
        g_propagate_error(error, g_steal_pointer(&failure));
    return code == VIR_ERR_OK;
}

/* Whether CHECKPOINTS has a newer one that is committed of the series of CHECKPOINT. */
static bool is_superseded(const FlCheckpoint *checkpoint, const GPtrArray *checkpoints)
{
    g_autoptr(FlPoint) point = fl_point_parse(checkpoint->name);

    for (guint i = 0; i < checkpoints->len; i++) {
        const FlCheckpoint *other = g_ptr_array_index(checkpoints, i);
        g_autoptr(FlPoint) p = other->ours && !other->pending ? fl_point_parse(other->name) : NULL;

        if (p != NULL && g_str_equal(p->series, point->series) && strcmp(p->id, point->id) > 0)
            return true;
    }
    return false;
}

bool fl_libvirt_roll_back(FlLibvirtSession *session, GError **error)
{
    g_autoptr(GPtrArray) checkpoints = NULL;
    int active = fl_libvirt_active(session, error);
    bool ok = true;

    if (active < 0)
        return false;
    if (active == 0) {
        /* libvirt deletes none then; the next session that finds the VM running does. */
        return !session->running || session->point == NULL ||
               fl_fail(error, "the VM has ended; the new checkpoint goes when a backup of it is "
                              "next begun");
    }
    checkpoints = fl_libvirt_checkpoints(session, error);
    if (checkpoints == NULL)
        return false;
    for (guint i = 0; i < checkpoints->len; i++) {
        const FlCheckpoint *checkpoint = g_ptr_array_index(checkpoints, i);
        const char *what = checkpoint->pending ? "was not committed" : "has a successor";

        if (!checkpoint->ours || (!checkpoint->pending && !is_superseded(checkpoint, checkpoints)))
            continue;
        if (delete_checkpoint(session, checkpoint->name, ok ? error : NULL))
            fl_backup_report(&session->backup, "deleted checkpoint %s, which %s", checkpoint->name,
                             what);
        else
            ok = false;
    }
    return ok;
}

/* Changes the description of the new checkpoint: the one step that makes the commit. */
static bool confirm(FlLibvirtSession *session, GError **error)
{
    virDomainCheckpointPtr checkpoint =
        virDomainCheckpointLookupByName(session->domain, session->point, 0);
    g_autofree char *xml = NULL;
    g_autofree char *confirmed = NULL;

    if (checkpoint == NULL)
        return fl_libvirt_fail(error, "checkpoint %s", session->point);
    xml = checkpoint_xml(checkpoint, VIR_DOMAIN_CHECKPOINT_XML_SECURE, error);
    virDomainCheckpointFree(checkpoint);
    confirmed = xml != NULL ? fl_checkpoint_confirm_xml(xml, error) : NULL;
    if (confirmed == NULL)
        return false;
    checkpoint = virDomainCheckpointCreateXML(session->domain, confirmed,
                                              VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE);
    if (checkpoint == NULL)
        return fl_libvirt_fail(error, "checkpoint %s", session->point);
    virDomainCheckpointFree(checkpoint);
    return true;
}

bool fl_libvirt_roll_forward(FlLibvirtSession *session, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (session->point == NULL)
        return true;
    while (!confirm(session, &failure)) {
        if (!fl_libvirt_again(session, fl_libvirt_patience(session))) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return false;
        }
        g_clear_error(&failure);
    }
    /* It is committed. Older ones that stay for now cost no more than their space. */
    fl_libvirt_roll_back(session, &session->late);
    return true;
}
