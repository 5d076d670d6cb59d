/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checkpoints: libvirt's metadata, and a bitmap of the same name on each disk. All bitmaps record
 * all the time, so removing one does not affect the others, even between those of other tools. */
#include "snapshot/libvirt/session.h"

#include "snapshot/point.h"

#include <libvirt/virterror.h>
#include <stdlib.h>
#include <string.h>

/* Returns the XML of CHECKPOINT, and frees CHECKPOINT; NULL if that is NULL. */
static char *take_xml(virDomainCheckpointPtr checkpoint, unsigned flags)
{
    char *xml = NULL;

    if (checkpoint != NULL) {
        xml = virDomainCheckpointGetXMLDesc(checkpoint, flags);
        virDomainCheckpointFree(checkpoint);
    }
    return xml;
}

/* Skips checkpoints that vanish before they are queried. */
static bool ask_checkpoints(FlLibvirtCall *call)
{
    virDomainCheckpointPtr *handles = NULL;
    int n = virDomainListAllCheckpoints(call->domain, &handles, 0);

    call->strings = g_ptr_array_new_with_free_func(g_free);
    for (int i = 0; i < n; i++) {
        char *xml = take_xml(handles[i], 0);
        if (xml != NULL)
            g_ptr_array_add(call->strings, g_strdup(xml));
        else if (virGetLastErrorCode() != VIR_ERR_NO_DOMAIN_CHECKPOINT)
            n = -1;
        free(xml);
    }
    free(handles);
    return n >= 0;
}

GPtrArray *fl_libvirt_checkpoints(FlLibvirtSession *session, GError **error)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_checkpoints, NULL, NULL);
    g_autoptr(GPtrArray) array = g_ptr_array_new_with_free_func((GDestroyNotify)fl_checkpoint_free);
    const FlJournalEntry *entry = fl_journal_entry(session->backup.journal);

    if (!fl_libvirt_ask(session, call)) {
        fl_libvirt_fail(error, call, "checkpoints");
        return NULL;
    }
    for (guint i = 0; i < call->strings->len; i++) {
        FlCheckpoint *checkpoint = fl_checkpoint_parse(call->strings->pdata[i], error);
        if (checkpoint == NULL)
            return NULL;
        checkpoint->pending =
            checkpoint->pending ||
            (checkpoint->ours && entry != NULL && g_strcmp0(entry->failed, checkpoint->name) == 0);
        g_ptr_array_add(array, checkpoint);
    }
    return g_steal_pointer(&array);
}

/* CALL->text is the name, CALL->number the flags. */
static bool ask_delete(FlLibvirtCall *call)
{
    virDomainCheckpointPtr checkpoint =
        virDomainCheckpointLookupByName(call->domain, call->text, 0);
    bool ok = checkpoint != NULL && virDomainCheckpointDelete(checkpoint, call->number) == 0;

    ok = ok || virGetLastErrorCode() == VIR_ERR_NO_DOMAIN_CHECKPOINT;
    if (!ok)
        fl_libvirt_call_note_error(call); /* before the next function resets it */
    if (checkpoint != NULL)
        virDomainCheckpointFree(checkpoint);
    return ok;
}

bool fl_libvirt_delete_metadata(FlLibvirtSession *session, const char *name, GError **error)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_delete, name, NULL);

    call->number = VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY;
    return fl_libvirt_ask(session, call) || fl_libvirt_fail(error, call, "checkpoint %s", name);
}

static bool ask_redefine(FlLibvirtCall *call)
{
    virDomainCheckpointPtr checkpoint = virDomainCheckpointCreateXML(
        call->domain, call->text, VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE);

    if (checkpoint != NULL)
        virDomainCheckpointFree(checkpoint);
    return checkpoint != NULL;
}

/* Defines a checkpoint of only that disk for the bitmap, and deletes both. */
bool fl_libvirt_remove_bitmap(FlLibvirtSession *session, const char *name, const char *target)
{
    g_autofree char *domain = fl_libvirt_domain_xml(session, NULL);
    g_autofree char *xml = domain != NULL ? fl_checkpoint_redefine_xml(name, target, domain) : NULL;
    g_autoptr(FlLibvirtCall) redefine = fl_libvirt_call_new(ask_redefine, xml, NULL);
    g_autoptr(FlLibvirtCall) whole = fl_libvirt_call_new(ask_delete, name, NULL);

    if (xml == NULL || !fl_libvirt_ask(session, redefine))
        return false;
    if (fl_libvirt_ask(session, whole))
        return true;
    fl_libvirt_delete_metadata(session, name, NULL);
    return false;
}

/*
 * libvirt deletes a checkpoint only if all its disks still have the bitmap. If one does not (the
 * disk was replaced, or QEMU died before it stored the bitmap), delete the metadata, and then the
 * bitmap of each disk.
 */
bool fl_libvirt_delete_checkpoint(FlLibvirtSession *session, const FlCheckpoint *checkpoint,
                                  GError **error)
{
    const char *name = checkpoint->name;
    g_autoptr(FlLibvirtCall) whole = fl_libvirt_call_new(ask_delete, name, NULL);
    g_autoptr(FlLibvirtCall) metadata = fl_libvirt_call_new(ask_delete, name, NULL);
    g_autoptr(GList) targets = g_hash_table_get_keys(checkpoint->disks);

    metadata->number = VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY;
    if (fl_libvirt_ask(session, whole))
        return true;
    if (whole->silent ||
        (whole->code != VIR_ERR_INTERNAL_ERROR && whole->code != VIR_ERR_CHECKPOINT_INCONSISTENT) ||
        !fl_libvirt_ask(session, metadata))
        return fl_libvirt_fail(error, whole, "checkpoint %s", name);
    for (GList *target = targets; target != NULL; target = target->next)
        fl_libvirt_remove_bitmap(session, name, target->data);
    return true;
}

/* Whether CHECKPOINTS has a later committed one in the series of CHECKPOINT. */
static bool is_superseded(const FlCheckpoint *checkpoint, const GPtrArray *checkpoints)
{
    g_autoptr(FlPoint) point = fl_point_parse(checkpoint->name);

    for (guint i = 0; i < checkpoints->len; i++) {
        const FlCheckpoint *other = g_ptr_array_index(checkpoints, i);
        g_autoptr(FlPoint) p = other->ours && !other->pending ? fl_point_parse(other->name) : NULL;

        if (p != NULL && g_str_equal(p->series, point->series) &&
            fl_checkpoint_descends(other, checkpoint, checkpoints))
            return true;
    }
    return false;
}

bool fl_libvirt_roll_back(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    const FlJournalEntry *entry = fl_journal_entry(session->backup.journal);
    g_autoptr(GPtrArray) checkpoints = NULL;
    int active;
    bool ok = true;

    session->doubtful = entry != NULL && entry->failed != NULL;
    /* The lost connection to libvirtd has been reported already. */
    if (session->backup.left && session->domain == NULL)
        return true;
    active = fl_libvirt_active(session, error);
    if (active < 0)
        return false;
    if (active == 0) {
        /* libvirt deletes no checkpoint now; the next session that finds the VM running does. */
        return !session->running || session->point == NULL ||
               fl_fail(error, "the VM has ended; the next backup removes the new checkpoint");
    }
    checkpoints = fl_libvirt_checkpoints(session, error);
    if (checkpoints == NULL)
        return false;
    for (guint i = 0; i < checkpoints->len; i++) {
        const FlCheckpoint *checkpoint = g_ptr_array_index(checkpoints, i);
        const char *what = checkpoint->pending ? "was not committed" : "has a successor";

        if (!checkpoint->ours || (!checkpoint->pending && !is_superseded(checkpoint, checkpoints)))
            continue;
        if (fl_libvirt_delete_checkpoint(session, checkpoint, ok ? error : NULL))
            fl_snapshot_report(&session->backup, "deleted checkpoint %s, which %s",
                               checkpoint->name, what);
        else
            ok = false;
    }
    session->doubtful = session->doubtful && !ok;
    return ok;
}

static bool ask_description(FlLibvirtCall *call)
{
    return fl_libvirt_call_take(
        call, take_xml(virDomainCheckpointLookupByName(call->domain, call->text, 0),
                       VIR_DOMAIN_CHECKPOINT_XML_SECURE));
}

/* Changes the description of the new checkpoint: this single step is the commit. */
static bool confirm(FlLibvirtSession *session, GError **error)
{
    g_autoptr(FlLibvirtCall) description =
        fl_libvirt_call_new(ask_description, session->point, NULL);
    g_autoptr(FlLibvirtCall) redefine = NULL;
    guint n;
    g_autofree FlDomainPart *parts = fl_libvirt_parts(session, &n);
    g_autofree char *confirmed = NULL;

    if (!fl_libvirt_ask(session, description))
        return fl_libvirt_fail(error, description, "checkpoint %s", session->point);
    confirmed = fl_checkpoint_confirm_xml(description->string, parts, n, error);
    if (confirmed == NULL)
        return false;
    redefine = fl_libvirt_call_new(ask_redefine, confirmed, NULL);
    return fl_libvirt_ask(session, redefine) ||
           fl_libvirt_fail(error, redefine, "checkpoint %s", session->point);
}

bool fl_libvirt_roll_forward(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    if (session->point == NULL)
        return true;
    if (!confirm(session, error)) {
        /* The change may have happened, or still happen; the journal records that the caller was
         * told it failed. */
        g_prefix_error(error, "the commit failed; it counts as an abort: ");
        fl_journal_write_failed(session->backup.journal, session->point, NULL);
        return false;
    }
    /* Committed. Older checkpoints that remain cost only space. */
    fl_libvirt_roll_back(backup, &session->late);
    return true;
}
