/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The restore points in a VM: which ones an abort, a commit or a forget removes. */
#include "snapshot/point.h"
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"

/* A bitmap that fleecefs created. */
typedef struct {
    const char *node, *name;
    const FlPoint *point;
    JsonArray *siblings; /* all bitmaps of NODE */
    bool read_only;      /* NODE is read-only */
    bool inconsistent;
} Bitmap;

/* One of two passes over the BITMAPS of NODE: visits either the MARKERS or all others. */
static bool visit_node(FlFleece *session, JsonObject *node, bool markers,
                       bool (*visit)(FlFleece *session, const Bitmap *bitmap, GError **error),
                       GError **error)
{
    JsonArray *bitmaps = fl_json_array(node, "dirty-bitmaps");
    bool ok = true;

    for (guint i = 0; i < fl_json_length(bitmaps); i++) {
        JsonObject *object = fl_json_element(bitmaps, i);
        const char *name = fl_json_string(object, "name");
        g_autoptr(FlPoint) point = name != NULL ? fl_point_parse(name) : NULL;
        Bitmap bitmap = {
            .node = fl_json_string(node, "node-name"),
            .name = name,
            .point = point,
            .siblings = bitmaps,
            .read_only = fl_json_bool(node, "ro"),
            .inconsistent = fl_json_bool(object, "inconsistent"),
        };

        if (point != NULL && bitmap.node != NULL && (point->kind == FL_POINT_PENDING) == markers)
            ok = visit(session, &bitmap, ok ? error : NULL) && ok;
    }
    return ok;
}

/* Calls VISIT for each bitmap that fleecefs created and continues after a failure; ERROR gets the
 * first. Markers come after what they mark: a point without its marker would count as committed. */
static bool visit_bitmaps(FlFleece *session,
                          bool (*visit)(FlFleece *session, const Bitmap *bitmap, GError **error),
                          GError **error)
{
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *nodes;
    bool ok = true;

    if (!fl_fleece_query_nodes(session, &reply, error))
        return false;
    nodes = fl_json_as_array(reply);
    for (guint i = 0; i < fl_json_length(nodes); i++) {
        JsonObject *node = fl_json_element(nodes, i);

        ok = visit_node(session, node, false, visit, ok ? error : NULL) && ok;
        ok = visit_node(session, node, true, visit, ok ? error : NULL) && ok;
    }
    return ok;
}

static bool remove_bitmap(FlFleece *session, const Bitmap *bitmap, const char *advice,
                          GError **error)
{
    return fl_fleece_do(
        session, "block-dirty-bitmap-remove",
        fl_qmp_args(fl_qmp_string("node", bitmap->node), fl_qmp_string("name", bitmap->name)), NULL,
        error, "bitmap %s of %s%s", bitmap->name, bitmap->node, advice);
}

/* Whether BITMAPS contains the marker of POINT or, if POINT is an identity, of its first point. */
static bool is_pending(JsonArray *bitmaps, const FlPoint *point)
{
    const char *id = point->kind == FL_POINT_DISK ? point->first : point->id;
    g_autofree char *marker = id != NULL ? fl_point_marker(point->series, id) : NULL;

    for (guint i = 0; i < fl_json_length(bitmaps); i++) {
        const char *name = fl_json_string(fl_json_element(bitmaps, i), "name");
        if (marker != NULL && g_strcmp0(name, marker) == 0)
            return true;
    }
    return false;
}

/* Removes a point that was never committed or can no longer be used, and its marker. */
static bool roll_back_bitmap(FlFleece *session, const Bitmap *bitmap, GError **error)
{
    const FlPoint *point = bitmap->point;

    /* Below an overlay the image is read-only, and nothing uses its bitmaps. The point keeps its
     * marker until it can be removed. */
    if (bitmap->read_only)
        return true;
    if (point->kind != FL_POINT_PENDING && !bitmap->inconsistent &&
        !is_pending(bitmap->siblings, point))
        return true;
    if (!remove_bitmap(session, bitmap, "", error))
        return false;
    if (point->kind != FL_POINT_BASE)
        return true;
    fl_snapshot_report(&session->backup, "removed restore point %s of %s: %s", bitmap->name,
                       bitmap->node, bitmap->inconsistent ? "inconsistent" : "not committed");
    if (bitmap->inconsistent &&
        g_str_equal(point->series, fl_snapshot_series(session->backup.options)))
        g_hash_table_insert(session->inconsistent, g_strdup(bitmap->node), g_strdup(point->id));
    return true;
}

bool fl_fleece_roll_back(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;

    if (!fl_fleece_reach(session, error))
        return false;
    if (session->gone)
        return fl_fail(error, "QEMU has ended; if it saved the new restore points, the next backup "
                              "of this VM removes them");
    return visit_bitmaps(session, roll_back_bitmap, error);
}

/* Adds to ACTIONS the removals that a commit makes on DISK, whose node is NODE: all bitmaps of the
 * series except the new point (which must exist), its check and the identity. */
static bool add_removals(JsonArray *actions, const FlFleeceDisk *disk, JsonObject *node,
                         const char *series, GError **error)
{
    JsonArray *bitmaps = fl_json_array(node, "dirty-bitmaps");
    g_autofree char *keep = fl_point_bitmap(series, disk->disk.restore_point);
    g_autofree char *check = fl_point_check(series, disk->disk.restore_point);
    g_autofree char *identity = fl_point_disk(series, disk->disk.disk_id);
    bool found = false;

    if (fl_vm_is_inactive(node))
        return fl_fail(error, FL_VM_INACTIVE, disk->disk.name);
    for (guint i = 0; i < fl_json_length(bitmaps); i++) {
        const char *name = fl_json_string(fl_json_element(bitmaps, i), "name");
        g_autoptr(FlPoint) point = name != NULL ? fl_point_parse(name) : NULL;

        if (point == NULL || !g_str_equal(point->series, series) || g_str_equal(name, identity) ||
            g_str_equal(name, check))
            continue;
        if (g_str_equal(name, keep)) {
            found = true;
            continue;
        }
        json_array_add_element(
            actions, fl_qmp_args(fl_qmp_string("type", "block-dirty-bitmap-remove"),
                                 fl_qmp_node("data", fl_qmp_args(fl_qmp_string("node", disk->node),
                                                                 fl_qmp_string("name", name)))));
    }
    return found || disk->no_point ||
           fl_fail(error, "disk %s: restore point %s was removed by another program",
                   disk->disk.name, keep);
}

bool fl_fleece_roll_forward(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    const char *series = fl_snapshot_series(session->backup.options);
    g_autoptr(JsonNode) reply = NULL;
    g_autoptr(GHashTable) found = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(JsonArray) actions = json_array_new();
    JsonArray *nodes;

    if (!fl_fleece_query_nodes(session, &reply, error))
        return false;
    nodes = fl_json_as_array(reply);
    for (guint i = 0; i < fl_json_length(nodes); i++) {
        JsonObject *object = fl_json_element(nodes, i);
        const char *node = fl_json_string(object, "node-name");
        if (node != NULL)
            g_hash_table_insert(found, (gpointer)node, object);
    }
    for (guint i = 0; i < session->backup.disks->len; i++) {
        const FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);
        if (!add_removals(actions, disk, g_hash_table_lookup(found, disk->node), series, error))
            return false;
    }
    return fl_fleece_do(
        session, "transaction",
        fl_qmp_args(fl_qmp_node("actions", fl_json_array_node(g_steal_pointer(&actions)))), NULL,
        error, "restore points");
}

static bool forget_bitmap(FlFleece *session, const Bitmap *bitmap, GError **error)
{
    const char *series = session->backup.options->series;

    if (series != NULL && !g_str_equal(bitmap->point->series, series))
        return true;
    if (!remove_bitmap(session, bitmap,
                       " stays (in a backing image it can be removed when the VM is shut off: "
                       "fleecefs --forget IMAGE)",
                       error))
        return false;
    fl_snapshot_report(&session->backup, "removed bitmap %s of %s", bitmap->name, bitmap->node);
    return true;
}

/* QEMU does not list the bitmaps of an inactive image: they would seem to be gone. */
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

    if (!fl_fleece_reach(session, error))
        return false;
    if (session->gone)
        return fl_fail(error, "QEMU has ended; give its images instead");
    return fl_fleece_check_owner(session, false, error) && check_active(session, error) &&
           visit_bitmaps(session, forget_bitmap, error) &&
           (backup->options->series != NULL || fl_journal_remove(backup->journal, error));
}
