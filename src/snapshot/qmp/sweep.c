/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ending what is ours in a VM. It is found by asking QEMU for names, never by remembering, so the
 * end of a session, the undoing of half a beginning and the recovery after a crash are one and the
 * same, and doing it twice does no harm.
 */
#include "snapshot/point.h"
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"

#include <string.h>

/* An export ends when its clients have been cut off, a job when its I/O has: milliseconds. */
#define END_TIMEOUT 5000
/* The guest's writes must not wait for long when its snapshot is given up. */
#define LET_GO_TIMEOUT 2000

typedef struct {
    FlFleece *session;
    const char *prefix;         /* of what is to end */
    unsigned timeout;           /* milliseconds for each kind of thing */
    guint exports, jobs, nodes; /* ended */
    bool stuck;                 /* nothing but exports could be ended */
} Sweep;

/* What ends some time after it was told to. */
typedef struct {
    const char *query, *name;
    /* Tells OBJECT of the reply to the query, called ID, to end, FIRST or again. */
    void (*end)(Sweep *sweep, JsonObject *object, const char *id, bool first);
    const char *advice; /* if it does not */
} Kind;

static void end_export(Sweep *sweep, JsonObject *object, const char *id, bool first)
{
    /* Refused for one that is ending already. */
    if (first)
        fl_qmp_call(sweep->session->qmp, "block-export-del",
                    fl_qmp_args(fl_qmp_string("id", id), fl_qmp_string("mode", "hard")), NULL,
                    NULL);
    sweep->exports += first;
}

static void end_job(Sweep *sweep, JsonObject *object, const char *id, bool first)
{
    const char *status = fl_json_string(object, "status");
    const char *command = NULL;

    if (g_strcmp0(status, "concluded") == 0)
        command = "job-dismiss";
    else if (g_strcmp0(status, "aborting") != 0 && g_strcmp0(status, "null") != 0)
        command = "job-cancel";
    /* A job may have gone on since it was asked for; the next round sees. */
    if (command != NULL)
        fl_qmp_call(sweep->session->qmp, command, fl_qmp_args(fl_qmp_string("id", id)), NULL, NULL);
    sweep->jobs += first;
}

static const Kind exports = {"query-block-exports", "export", end_export,
                             "a client of it is stuck; end that one"};
static const Kind jobs = {"query-jobs", "job", end_job, "does the disk's storage answer?"};

/* Ends all of KIND that are ours. */
static bool end_all(Sweep *sweep, const Kind *kind, GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)sweep->timeout * 1000;

    for (bool first = true;; first = false) {
        unsigned seen = sweep->session->events;
        g_autoptr(JsonNode) reply = NULL;
        const char *last = NULL;
        JsonArray *array;

        if (!fl_fleece_do(sweep->session, kind->query, NULL, &reply, error, "%ss", kind->name))
            return false;
        array = fl_json_as_array(reply);
        for (guint i = 0; i < fl_json_length(array); i++) {
            JsonObject *object = fl_json_element(array, i);
            const char *id = fl_json_string(object, "id");

            if (id == NULL || !g_str_has_prefix(id, sweep->prefix))
                continue;
            kind->end(sweep, object, id, first);
            last = id;
        }
        if (last == NULL)
            return true;
        if (!fl_fleece_await(sweep->session, seen, end, error, "%s %s does not end: %s", kind->name,
                             last, kind->advice))
            return false;
    }
}

static bool query_nodes(FlFleece *session, JsonNode **reply, GError **error)
{
    return fl_fleece_do(session, "query-named-block-nodes", fl_qmp_args(fl_qmp_bool("flat", true)),
                        reply, error, "nodes");
}

/* Overlays first: they hold their files. */
static bool end_nodes(Sweep *sweep, GError **error)
{
    static const char *const parts[] = {"-overlay", "-file", ("-" FL_FLEECE_TAIL)};
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *nodes;

    if (!query_nodes(sweep->session, &reply, error))
        return false;
    nodes = fl_json_as_array(reply);
    for (size_t p = 0; p < G_N_ELEMENTS(parts); p++) {
        for (guint i = 0; i < fl_json_length(nodes); i++) {
            const char *name = fl_json_string(fl_json_element(nodes, i), "node-name");

            if (name == NULL || !g_str_has_prefix(name, sweep->prefix) ||
                !g_str_has_suffix(name, parts[p]))
                continue;
            if (!fl_fleece_do(sweep->session, "blockdev-del",
                              fl_qmp_args(fl_qmp_string("node-name", name)), NULL, error, "node %s",
                              name))
                return false;
            sweep->nodes++;
        }
    }
    return true;
}

/* Sets of descriptors whose file never became a node. */
static bool end_fdsets(const Sweep *sweep, GError **error)
{
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *sets;

    if (!fl_fleece_do(sweep->session, "query-fdsets", NULL, &reply, error, "files"))
        return false;
    sets = fl_json_as_array(reply);
    for (guint i = 0; i < fl_json_length(sets); i++) {
        JsonObject *set = fl_json_element(sets, i);
        JsonArray *fds = fl_json_array(set, "fds");
        const char *opaque =
            fl_json_length(fds) > 0 ? fl_json_string(fl_json_element(fds, 0), "opaque") : NULL;

        /* Refused for one that is going already. */
        if (opaque != NULL && g_str_has_prefix(opaque, sweep->prefix))
            fl_qmp_call(sweep->session->qmp, "remove-fd",
                        fl_qmp_args(fl_qmp_int("fdset-id", fl_json_int(set, "fdset-id"))), NULL,
                        NULL);
    }
    return true;
}

/* A guest that was stopped because the scratch was full can go on: its write is tried again. */
static bool resume_guest(FlFleece *session, GError **error)
{
    g_autoptr(JsonNode) reply = NULL;

    if (!fl_fleece_do(session, "query-status", NULL, &reply, error, "guest"))
        return false;
    if (g_strcmp0(fl_json_string(fl_json_as_object(reply), "status"), "io-error") != 0)
        return true;
    fl_snapshot_report(&session->backup, "resumed the guest, which had stopped on ENOSPC");
    return fl_fleece_do(session, "cont", NULL, NULL, error, "guest");
}

/*
 * An export that does not end has a client that reads no replies. From 8.0 on (seen in 10.0) QEMU
 * stands still, with all of its monitors, when a job of that disk is cancelled then, and until the
 * client has left: so the job stays, and the guest's writes go on. An older QEMU cuts the client
 * off, and there a job that stayed would stop the guest in the end.
 */
static bool is_stuck(Sweep *sweep, const GError *failure, GError **error)
{
    sweep->stuck = fl_vm_is_since(sweep->session->qmp, 8, 0, 0);
    if (sweep->stuck)
        fl_fail(error, "%s. Until then its backup job stays: to cancel it would halt this QEMU",
                failure->message);
    return sweep->stuck;
}

static bool run(Sweep *sweep, GError **error)
{
    g_autoptr(GError) failure = NULL;
    bool ok;

    ok = end_all(sweep, &exports, &failure);
    if (!ok && is_stuck(sweep, failure, error))
        return false;
    ok = end_all(sweep, &jobs, ok ? &failure : NULL) && ok;
    ok = end_nodes(sweep, ok ? &failure : NULL) && ok;
    ok = end_fdsets(sweep, ok ? &failure : NULL) && ok;
    if (sweep->jobs > 0)
        ok = resume_guest(sweep->session, ok ? &failure : NULL) && ok;
    if (!ok)
        g_propagate_error(error, g_steal_pointer(&failure));
    return ok;
}

static void empty_scratch(gpointer disk, gpointer data)
{
    fl_fleece_empty_scratch(disk);
}

bool fl_fleece_sweep(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    Sweep sweep = {.session = session, .prefix = FL_FLEECE_PREFIX, .timeout = END_TIMEOUT};
    bool ok;

    if (!fl_fleece_reach(session, error)) {
        session->backup.left = true;
        return false;
    }
    if (session->gone)
        return fl_fleece_stop_server(session, error);

    ok = run(&sweep, error);
    if (sweep.exports + sweep.jobs + sweep.nodes > 0)
        fl_snapshot_report(&session->backup, "ended %u exports, %u jobs and %u nodes",
                           sweep.exports, sweep.jobs, sweep.nodes);
    /* Stopping the server while an export is stuck would stop all of QEMU. */
    ok = ok && fl_fleece_stop_server(session, error);
    /* A job that stays goes on writing there. */
    if (!sweep.stuck && session->backup.disks != NULL)
        g_ptr_array_foreach(session->backup.disks, empty_scratch, NULL);
    session->backup.left = session->backup.left || !ok;
    return ok;
}

bool fl_fleece_let_go(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    bool ok = true;

    if (!fl_fleece_reach(session, error) || session->gone)
        return session->gone;
    for (guint i = 0; i < session->backup.disks->len; i++) {
        FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);
        g_autofree char *prefix = fl_fleece_id(disk, "");
        Sweep sweep = {.session = session, .prefix = prefix, .timeout = LET_GO_TIMEOUT};

        if (disk->disk.lost == NULL)
            continue;
        ok = run(&sweep, ok ? error : NULL) && ok;
        if (!sweep.stuck)
            fl_fleece_empty_scratch(disk);
    }
    return ok;
}

static bool remove_bitmap(FlFleece *session, const char *node, const char *name, GError **error)
{
    return fl_fleece_do(session, "block-dirty-bitmap-remove",
                        fl_qmp_args(fl_qmp_string("node", node), fl_qmp_string("name", name)), NULL,
                        error, "bitmap %s of %s", name, node);
}

/* Whether one of BITMAPS is the marker of POINT, or of that with which the disk POINT began. */
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

/* The points of NODE that were never committed or can never be used again; then, MARKERS, what
 * marks them: a point without its marker would count as committed. */
static bool roll_back_node(FlFleece *session, const char *node, JsonArray *bitmaps, bool markers,
                           GError **error)
{
    bool ok = true;

    for (guint i = 0; i < fl_json_length(bitmaps); i++) {
        JsonObject *bitmap = fl_json_element(bitmaps, i);
        const char *name = fl_json_string(bitmap, "name");
        bool inconsistent = fl_json_bool(bitmap, "inconsistent");
        g_autoptr(FlPoint) point = name != NULL ? fl_point_parse(name) : NULL;

        if (point == NULL || (point->kind == FL_POINT_PENDING) != markers)
            continue;
        if (!markers && !inconsistent && !is_pending(bitmaps, point))
            continue;
        if (!remove_bitmap(session, node, name, ok ? error : NULL)) {
            ok = false;
            continue;
        }
        if (point->kind != FL_POINT_BASE)
            continue;
        fl_snapshot_report(&session->backup, "removed restore point %s of %s, which was %s", name,
                           node, inconsistent ? "inconsistent" : "not committed");
        if (inconsistent && g_str_equal(point->series, fl_snapshot_series(session->backup.options)))
            g_hash_table_insert(session->inconsistent, g_strdup(node), g_strdup(point->id));
    }
    return ok;
}

bool fl_fleece_roll_back(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *nodes;
    bool ok = true;

    if (!fl_fleece_reach(session, error))
        return false;
    if (session->gone)
        return fl_fail(error, "QEMU has ended; the new restore points, if it saved them, go when a "
                              "backup of this VM is next begun");
    if (!query_nodes(session, &reply, error))
        return false;
    nodes = fl_json_as_array(reply);
    for (guint i = 0; i < fl_json_length(nodes); i++) {
        JsonObject *object = fl_json_element(nodes, i);
        const char *node = fl_json_string(object, "node-name");
        JsonArray *bitmaps = fl_json_array(object, "dirty-bitmaps");

        /* What an overlay was put upon cannot be changed, nor does anything go by it; it keeps its
         * marker for when it can. */
        if (node == NULL || fl_json_bool(object, "ro"))
            continue;
        if (!roll_back_node(session, node, bitmaps, false, ok ? error : NULL) ||
            !roll_back_node(session, node, bitmaps, true, ok ? error : NULL))
            ok = false;
    }
    return ok;
}

/* Adds to ACTIONS what a commit removes of the bitmaps of DISK, whose node is as NODE says: all of
 * the series but the new point, which must be there, and what says which disk it is. */
static bool add_removals(JsonArray *actions, const FlFleeceDisk *disk, JsonObject *node,
                         const char *series, GError **error)
{
    JsonArray *bitmaps = fl_json_array(node, "dirty-bitmaps");
    g_autofree char *keep = fl_point_bitmap(series, disk->disk.restore_point);
    g_autofree char *identity = fl_point_disk(series, disk->disk.disk_id);
    bool found = false;

    if (fl_vm_is_inactive(node))
        return fl_fail(error, FL_VM_INACTIVE, disk->disk.name);
    for (guint i = 0; i < fl_json_length(bitmaps); i++) {
        const char *name = fl_json_string(fl_json_element(bitmaps, i), "name");
        g_autoptr(FlPoint) point = name != NULL ? fl_point_parse(name) : NULL;

        if (point == NULL || !g_str_equal(point->series, series) || g_str_equal(name, identity))
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
    return found || disk->shared ||
           fl_fail(error, "disk %s: somebody removed restore point %s", disk->disk.name, keep);
}

bool fl_fleece_roll_forward(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    const char *series = fl_snapshot_series(session->backup.options);
    g_autoptr(JsonNode) reply = NULL;
    g_autoptr(GHashTable) found = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(JsonArray) actions = json_array_new();
    JsonArray *nodes;

    if (!query_nodes(session, &reply, error))
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
        fl_qmp_args(fl_qmp_node("actions", fl_fleece_array(g_steal_pointer(&actions)))), NULL,
        error, "restore points");
}
