/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Removes what fleecefs created in a VM. It finds these objects by querying QEMU for names, not by
 * remembering them. So ending a session, undoing a half-finished start and recovering after a crash
 * are the same operation, and repeating it is harmless.
 */
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"

#include <string.h>

/* Milliseconds: an export ends once its clients are disconnected, a job once its I/O is done. */
#define END_TIMEOUT 5000
/* Guest writes must not wait long when their snapshot is given up. */
#define LET_GO_TIMEOUT 2000

typedef struct {
    FlFleece *session;
    const char *prefix;         /* of the names to remove */
    unsigned timeout;           /* milliseconds for each kind of object */
    guint exports, jobs, nodes; /* removed so far */
    bool stuck;                 /* an export does not end, so jobs and nodes stay */
} Sweep;

/* A kind of object that ends asynchronously. */
typedef struct {
    const char *query, *name;
    /* Asks OBJECT of the reply to the query, called ID, to end; FIRST is false when repeated. */
    void (*end)(Sweep *sweep, JsonObject *object, const char *id, bool first);
    const char *advice; /* if it does not end */
} Kind;

static void end_export(Sweep *sweep, JsonObject *object, const char *id, bool first)
{
    /* QEMU refuses this for one that is already ending. */
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
    /* The job's state may have changed since the query; the next round sees that. */
    if (command != NULL)
        fl_qmp_call(sweep->session->qmp, command, fl_qmp_args(fl_qmp_string("id", id)), NULL, NULL);
    sweep->jobs += first;
}

static const Kind exports = {"query-block-exports", "export", end_export,
                             "one of its clients hangs; end that client"};
static const Kind jobs = {"query-jobs", "job", end_job, "does the disk's storage answer?"};

/* Ends all objects of KIND that fleecefs created. */
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

/* Overlays first: they reference their files. */
static bool end_nodes(Sweep *sweep, GError **error)
{
    static const char *const parts[] = {"-overlay", "-file", ("-" FL_FLEECE_TAIL)};
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *nodes;

    if (!fl_fleece_query_nodes(sweep->session, &reply, error))
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

/* Removes the keys of scratch images; after the images, which reference them. */
static bool end_secrets(const Sweep *sweep, GError **error)
{
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *objects;

    /* Fails if no object was ever created. */
    if (!fl_qmp_call(sweep->session->qmp, "qom-list",
                     fl_qmp_args(fl_qmp_string("path", "/objects")), &reply, NULL))
        return true;
    objects = fl_json_as_array(reply);
    for (guint i = 0; i < fl_json_length(objects); i++) {
        const char *id = fl_json_string(fl_json_element(objects, i), "name");

        if (id != NULL && g_str_has_prefix(id, sweep->prefix) &&
            g_str_has_suffix(id, "-" FL_FLEECE_SECRET) &&
            !fl_fleece_do(sweep->session, "object-del", fl_qmp_args(fl_qmp_string("id", id)), NULL,
                          error, "secret %s", id))
            return false;
    }
    return true;
}

/* Removes fd sets whose file never became a node. */
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

        /* QEMU refuses this for one that is already being removed. */
        if (opaque != NULL && g_str_has_prefix(opaque, sweep->prefix))
            fl_qmp_call(sweep->session->qmp, "remove-fd",
                        fl_qmp_args(fl_qmp_int("fdset-id", fl_json_int(set, "fdset-id"))), NULL,
                        NULL);
    }
    return true;
}

/* Resumes a guest that stopped because the scratch space was full: QEMU retries its write. */
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
 * An export that does not end has a client that reads no replies. Since 8.0 (seen in 10.0), if a
 * job on that disk is cancelled in this state, QEMU and all its monitors block until the client
 * disconnects. So the job stays, and guest writes continue. An older QEMU disconnects the client;
 * there a job that stayed would eventually stop the guest.
 */
static bool is_stuck(Sweep *sweep, const GError *failure, GError **error)
{
    sweep->stuck = fl_vm_is_since(sweep->session->qmp, 8, 0, 0);
    if (sweep->stuck)
        fl_fail(error,
                "%s. Until then its backup job stays, because cancelling it would hang this QEMU",
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
    ok = end_secrets(sweep, ok ? &failure : NULL) && ok;
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
    /* Stopping the server while an export is stuck would block all of QEMU. */
    ok = ok && fl_fleece_stop_server(session, error);
    /* A job that stays still writes there. */
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
