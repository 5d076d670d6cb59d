/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/qmp/fleece.h"

#include "snapshot/point.h"
#include "qemu/json.h"

#include <stdio.h>
#include <string.h>

/* Milliseconds: a monitor that has another client never sends its greeting. */
#define CONNECT_TIMEOUT 10000

unsigned fl_fleece_timeout(const FlFleece *session)
{
    unsigned seconds = session->backup.options->timeout;

    return (seconds != 0 ? MIN(seconds, 86400) : 30) * 1000;
}

char *fl_fleece_id(const FlFleeceDisk *disk, const char *part)
{
    return g_strdup_printf(FL_FLEECE_PREFIX "%u-%s", disk->index, part);
}

FlFleeceDisk *fl_fleece_find(const FlFleece *session, const char *id, const char *part)
{
    for (guint i = 0; id != NULL && i < session->backup.disks->len; i++) {
        FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);
        g_autofree char *own = fl_fleece_id(disk, part);
        if (g_str_equal(own, id))
            return disk;
    }
    return NULL;
}

JsonNode *fl_fleece_array(JsonArray *array)
{
    JsonNode *node = json_node_alloc();

    json_node_init_array(node, array);
    json_array_unref(array);
    return node;
}

bool fl_fleece_do(FlFleece *session, const char *command, JsonNode *args, JsonNode **reply,
                  GError **error, const char *format, ...)
{
    g_autoptr(GError) failure = NULL;
    g_autofree char *subject = NULL;
    va_list list;

    if (session->qmp == NULL) {
        g_clear_pointer(&args, json_node_unref);
        return fl_fail(error, "the connection to QEMU is lost");
    }
    if (fl_qmp_call(session->qmp, command, args, reply, &failure))
        return true;
    va_start(list, format);
    subject = g_strdup_vprintf(format, list);
    va_end(list);
    return fl_fail(error, "%s: %s", subject, failure->message);
}

static bool connect_monitor(FlFleece *session, GError **error)
{
    g_clear_pointer(&session->qmp, fl_qmp_free);
    session->qmp =
        fl_qmp_connect(session->monitor, MIN(fl_fleece_timeout(session), CONNECT_TIMEOUT), error);
    if (session->qmp == NULL)
        return false;
    fl_qmp_set_timeout(session->qmp, fl_fleece_timeout(session));
    fl_qmp_set_event_handler(session->qmp, fl_fleece_on_event, session);
    return true;
}

bool fl_fleece_await(FlFleece *session, unsigned seen, gint64 deadline, GError **error,
                     const char *format, ...)
{
    /* Milliseconds: not everything that changes has an event in every QEMU. */
    static const unsigned interval = 50;
    g_autofree char *words = NULL;
    va_list args;

    if (g_get_monotonic_time() < deadline)
        return session->events != seen || fl_qmp_dispatch(session->qmp, interval, error);
    va_start(args, format);
    words = g_strdup_vprintf(format, args);
    va_end(args);
    return fl_fail(error, "%s", words);
}

bool fl_fleece_reach(FlFleece *session, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (session->gone || (session->qmp != NULL && fl_qmp_dispatch(session->qmp, 0, NULL)) ||
        connect_monitor(session, &failure))
        return true;
    /* A monitor that has another client now is not the end of QEMU. */
    session->gone = !fl_fleece_listens(session->monitor);
    if (!session->gone)
        g_propagate_error(error, g_steal_pointer(&failure));
    return session->gone;
}

static void release(FlSnapshot *backup)
{
    FlFleece *session = (FlFleece *)backup;

    fl_fleece_unclaim(session);
    g_clear_pointer(&session->agent, fl_agent_free);
    g_clear_pointer(&session->qmp, fl_qmp_free);
    g_clear_pointer(&session->journal, fl_journal_close);
}

static void close_session(FlSnapshot *backup)
{
    FlFleece *session = (FlFleece *)backup;

    release(backup);
    g_hash_table_unref(session->inconsistent);
    g_free(session->monitor);
    g_free(session->scratch);
    g_free(session->agent_path);
    g_free(session->socket);
    fl_snapshot_clear(backup);
    g_free(session);
}

static FlSnapshot *open_session(const FlSnapshotOptions *options, GError **error)
{
    const char *path = options->source + strlen("qmp:");
    FlFleece *session = g_new0(FlFleece, 1);
    g_autoptr(FlSnapshot) backup = &session->backup;
    g_autoptr(GError) failure = NULL;
    g_autofree char *directory = NULL;
    g_autofree char *key = NULL;

    fl_snapshot_init(backup, &fl_fleece_backup_ops, options);
    session->inconsistent = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    if (*path == '\0') {
        fl_fail_usage(error, "qmp:PATH needs the path of a monitor's socket");
        return NULL;
    }
    if (options->since != NULL) {
        fl_fail_usage(error, "%s: checkpoints (since=) are libvirt's; series= names ours",
                      options->source);
        return NULL;
    }
    session->monitor = g_canonicalize_filename(path, NULL);
    session->scratch =
        g_canonicalize_filename(options->scratch != NULL ? options->scratch : "/var/tmp", NULL);
    if (options->agent != NULL)
        session->agent_path = g_canonicalize_filename(options->agent, NULL);
    if (!connect_monitor(session, &failure)) {
        fl_fail(error, "%s%s", failure->message,
                fl_fleece_listens(session->monitor)
                    ? ""
                    : "; does QEMU run, with -qmp unix:PATH,server=on,wait=off?");
        return NULL;
    }
    if (!fl_fleece_check_owner(session, true, error))
        return NULL;
    directory = fl_state_directory(error);
    if (directory == NULL)
        return NULL;
    backup->vm.source = g_strconcat("qmp:", session->monitor, NULL);
    if (!fl_vm_identify(session->qmp, &backup->vm.uuid, &backup->vm.name, error))
        return NULL;
    key = fl_vm_key(backup->vm.uuid, session->monitor);
    return fl_fleece_claim(session, directory, key, error) ? g_steal_pointer(&backup) : NULL;
}

static bool check_iothreads(FlFleece *session, const FlVmVersion *version, GError **error)
{
    for (guint i = 0; i < session->backup.disks->len; i++) {
        const FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);
        bool kills = false;

        if (!fl_vm_disconnect_kills(session->qmp, version, disk->qdev, &kills, error))
            return false;
        if (kills)
            return fl_fail(
                error,
                "disk %s runs in an iothread, and this QEMU (%u.%u.%u) may abort when an "
                "NBD client leaves such a disk; 8.2.3, 9.0 and newer do not; leave the "
                "disk out (-o disk=) or take its iothread away",
                disk->disk.name, version->major, version->minor, version->micro);
    }
    return true;
}

/* Restore points may be of sessions that had another monitor, and so another journal. */
static void note_seconds(FlFleece *session, const GPtrArray *disks)
{
    for (guint i = 0; i < disks->len; i++) {
        const FlVmDisk *disk = g_ptr_array_index(disks, i);

        for (guint j = 0; j < disk->bitmaps->len; j++) {
            const FlVmBitmap *bitmap = g_ptr_array_index(disk->bitmaps, j);
            g_autoptr(FlPoint) point = fl_point_parse(bitmap->name);

            if (point != NULL)
                fl_journal_saw_second(session->journal, point->seconds,
                                      g_get_real_time() / G_USEC_PER_SEC);
        }
    }
}

static bool inspect(FlFleece *session, GError **error)
{
    g_autoptr(GPtrArray) disks = NULL;
    FlVmVersion version;

    if (!fl_vm_check(session->qmp, &version, error))
        return false;
    disks = fl_vm_disks(session->qmp, error);
    if (disks == NULL)
        return false;
    fl_vm_look_at_devices(session->qmp, disks);
    note_seconds(session, disks);
    session->backup.disks = fl_fleece_plan(disks, session->backup.options, session->inconsistent,
                                           session->backup.notes, error);
    return session->backup.disks != NULL && check_iothreads(session, &version, error) &&
           fl_snapshot_check_room(&session->backup, session->scratch, &session->reserve, error);
}

static bool snapshot(FlFleece *session, GError **error)
{
    const char *series = fl_snapshot_series(session->backup.options);
    gint64 second = fl_snapshot_set_time(&session->backup, session->journal);

    for (guint i = 0; i < session->backup.disks->len; i++)
        fl_fleece_name_point(g_ptr_array_index(session->backup.disks, i), second);
    return fl_fleece_do(
        session, "transaction",
        fl_qmp_args(fl_qmp_node(
            "actions", fl_fleece_array(fl_fleece_snapshot_actions(session->backup.disks, series)))),
        NULL, error, "cannot take the snapshot");
}

static bool export(FlFleece *session, GError **error)
{
    fl_fleece_drop_tails(session);
    return fl_journal_set_second(session->journal, session->backup.time.tv_sec, error) &&
           fl_fleece_export(session, error);
}

static bool journal(FlFleece *session, GError **error)
{
    const FlSnapshotOptions *options = session->backup.options;
    FlJournalEntry entry = {
        .source = options->source,
        .series = fl_snapshot_series(options),
        .agent = session->agent_path,
    };

    if (options->nbd == NULL)
        entry.socket = session->socket = fl_fleece_choose_socket();
    return fl_journal_write(session->journal, &entry, error);
}

/*
 * Whether ACTION may be carried out, on disks that must be this QEMU's: a migration may have begun
 * since it was last asked. What ends without a write to an image may end while one is in progress.
 */
static bool may_run(FlFleece *session, FlAction action, GError **error)
{
    bool ends = action == FL_ACTION_SWEEP || action == FL_ACTION_ROLL_BACK;
    bool migrating = action == FL_ACTION_SWEEP || action == FL_ACTION_LET_GO;
    g_autoptr(GError) failure = NULL;

    if (action == FL_ACTION_THAW || action == FL_ACTION_FORGET || action == FL_ACTION_JOURNAL)
        return true;
    /* The action itself tells of a QEMU that is gone or silent. */
    if (session->gone || session->qmp == NULL ||
        fl_fleece_check_owner(session, migrating, &failure) ||
        !fl_qmp_dispatch(session->qmp, 0, NULL))
        return true;
    if (ends) {
        session->left = true;
        g_prefix_error(&failure,
                       "nothing was written to the disks, and what is left of this session in QEMU "
                       "and in their bitmaps goes with the next one, or with fleecefs --recover: ");
    }
    g_propagate_error(error, g_steal_pointer(&failure));
    return false;
}

static bool run(FlSnapshot *backup, FlAction action, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    bool allowed;

    /* It follows a sweep that has told why. */
    if (session->refused && action == FL_ACTION_ROLL_BACK)
        return true;
    allowed = may_run(session, action, error);
    session->refused = !allowed && action == FL_ACTION_SWEEP;
    if (!allowed)
        return false;
    switch (action) {
    case FL_ACTION_NONE:
        break;
    case FL_ACTION_INSPECT:
        return inspect(session, error);
    case FL_ACTION_JOURNAL:
        return journal(session, error);
    case FL_ACTION_SERVE:
        return fl_fleece_serve(session, error);
    case FL_ACTION_PREPARE:
        return fl_fleece_prepare(session, error) && fl_fleece_add_tails(session, error);
    case FL_ACTION_FREEZE:
        return fl_fleece_freeze(session, error);
    case FL_ACTION_SNAPSHOT:
        return snapshot(session, error);
    case FL_ACTION_THAW:
        return fl_fleece_thaw(session, error);
    case FL_ACTION_EXPORT:
        return export(session, error);
    case FL_ACTION_CHECK_JOBS:
        return fl_fleece_check_jobs(session, error);
    case FL_ACTION_LET_GO:
        return fl_fleece_let_go(session, error);
    case FL_ACTION_SWEEP:
        return fl_fleece_sweep(session, error);
    case FL_ACTION_ROLL_BACK:
        return fl_fleece_roll_back(session, error);
    case FL_ACTION_ROLL_FORWARD:
        return fl_fleece_roll_forward(session, error);
    case FL_ACTION_FORGET:
        return session->left || fl_journal_forget(session->journal, error);
    }
    g_assert_not_reached();
}

/* To connect anew to a monitor that was lost, and to see that the NBD server has no client any more
 * before it is stopped. */
static void allow(const FlSnapshot *backup, FlSandbox *sandbox)
{
    const FlFleece *session = (const FlFleece *)backup;

    fl_sandbox_allow_socket(sandbox, session->monitor);
    if (session->socket != NULL)
        fl_sandbox_allow_socket(sandbox, session->socket);
}

const FlSnapshotOps fl_fleece_backup_ops = {
    .open = open_session,
    .run = run,
    .wait = fl_fleece_wait,
    .look = fl_fleece_look,
    .scratch_use = fl_fleece_scratch_use,
    .forget = fl_fleece_forget,
    .allow = allow,
    .release = release,
    .close = close_session,
};
