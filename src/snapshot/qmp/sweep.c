/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ending what is ours in a VM. It is found by asking QEMU for names, never by remembering, so the
 * end of a session, the undoing of half a beginning and the recovery after a crash are one and the
 * same, and doing it twice does no harm.
 */
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

/* Overlays first: they hold their files. */
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
