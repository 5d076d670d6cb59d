/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The end of all backups of a VM: its restore points go. */
#include "snapshot/point.h"
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"

#include <string.h>

static bool forget_bitmap(FlFleece *session, const char *node, const char *name, GError **error)
{
    if (!fl_fleece_do(
            session, "block-dirty-bitmap-remove",
            fl_qmp_args(fl_qmp_string("node", node), fl_qmp_string("name", name)), NULL, error,
            "bitmap %s of %s stays (of an image below a disk it can be removed when the VM "
            "is shut off: fleecefs --forget IMAGE)",
            name, node))
        return false;
    fl_snapshot_report(&session->backup, "removed bitmap %s of %s", name, node);
    return true;
}

/* The points of NODE, then, NOTES, what says something of them: a point without its marker would
 * count as committed. */
static bool forget_node(FlFleece *session, const char *node, JsonArray *bitmaps, bool notes,
                        GError **error)
{
    bool ok = true;

    for (guint i = 0; i < fl_json_length(bitmaps); i++) {
        const char *name = fl_json_string(fl_json_element(bitmaps, i), "name");

        if (name == NULL || !fl_point_is_ours(name, session->backup.options->series) ||
            fl_point_is_note(name) != notes)
            continue;
        ok = forget_bitmap(session, node, name, ok ? error : NULL) && ok;
    }
    return ok;
}

/* Of an inactive image QEMU does not know the bitmaps: they would seem to be gone. */
static bool check_active(FlFleece *session, GError **error)
{
    g_autoptr(GPtrArray) disks = fl_vm_disks(session->qmp, error);

    for (guint i = 0; disks != NULL && i < disks->len; i++) {
        const FlVmDisk *disk = g_ptr_array_index(disks, i);

        if (disk->inactive)
            return fl_fail(error, FL_VM_INACTIVE, disk->name);
    }
    return disks != NULL;
}

bool fl_fleece_forget(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *nodes;
    bool ok = true;

    if (!fl_fleece_reach(session, error))
        return false;
    if (session->gone)
        return fl_fail(error, "QEMU has ended; name its images");
    if (!fl_fleece_check_owner(session, false, error) || !check_active(session, error))
        return false;
    if (!fl_fleece_do(session, "query-named-block-nodes", fl_qmp_args(fl_qmp_bool("flat", true)),
                      &reply, error, "nodes"))
        return false;
    nodes = fl_json_as_array(reply);
    for (guint i = 0; i < fl_json_length(nodes); i++) {
        JsonObject *object = fl_json_element(nodes, i);
        const char *node = fl_json_string(object, "node-name");
        JsonArray *bitmaps = fl_json_array(object, "dirty-bitmaps");

        for (int notes = 0; node != NULL && notes <= 1; notes++)
            ok = forget_node(session, node, bitmaps, notes == 1, ok ? error : NULL) && ok;
    }
    return ok &&
           (backup->options->series != NULL || fl_journal_remove(session->backup.journal, error));
}
