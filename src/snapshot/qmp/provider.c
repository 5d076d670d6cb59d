/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The provider: opens and closes a session and implements each action. */
#include "snapshot/point.h"
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"

#include <string.h>

/* How often to query disks again while a restore point seems to be cleared. */
#define LOOKS 5u

static void release(FlSnapshot *backup)
{
    FlFleece *session = (FlFleece *)backup;

    fl_fleece_unclaim(session);
    g_clear_pointer(&session->agent, fl_agent_free);
    g_clear_pointer(&session->qmp, fl_qmp_free);
    g_clear_pointer(&backup->journal, fl_journal_close);
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

    fl_snapshot_init(backup, &fl_qmp_provider, options);
    session->on_event = fl_fleece_on_event;
    session->inconsistent = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    if (*path == '\0') {
        fl_fail_usage(error, "qmp:PATH needs the path of a monitor's socket");
        return NULL;
    }
    session->monitor = g_canonicalize_filename(path, NULL);
    session->scratch =
        g_canonicalize_filename(options->scratch != NULL ? options->scratch : "/var/tmp", NULL);
    if (options->agent != NULL)
        session->agent_path = g_canonicalize_filename(options->agent, NULL);
    backup->server_uri = fl_snapshot_own_option(options, "nbd");
    backup->max_clients = backup->server_uri != NULL ? FL_SNAPSHOT_SERVER_CLIENTS : 0;
    if (!fl_fleece_connect(session, &failure)) {
        fl_fail(error, "%s%s", failure->message,
                fl_fleece_listens(session->monitor)
                    ? ""
                    : "; check that QEMU runs with -qmp unix:PATH,server=on,wait=off");
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
    if (!fl_snapshot_disconnect_kills(version->major, version->minor, version->micro))
        return true;
    for (guint i = 0; i < session->backup.disks->len; i++) {
        const FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);
        bool iothread = false;

        if (!fl_vm_in_iothread(session->qmp, disk->qdev, &iothread, error))
            return false;
        if (iothread)
            return fl_snapshot_refuse_iothread(disk->disk.name, error);
    }
    return true;
}

/* Restore points may come from sessions on another monitor, with another journal. */
static void note_seconds(FlFleece *session, const GPtrArray *disks)
{
    for (guint i = 0; i < disks->len; i++) {
        const FlVmDisk *disk = g_ptr_array_index(disks, i);

        for (guint j = 0; j < disk->bitmaps->len; j++) {
            const FlVmBitmap *bitmap = g_ptr_array_index(disk->bitmaps, j);
            g_autoptr(FlPoint) point = fl_point_parse(bitmap->name);

            if (point != NULL)
                fl_journal_saw_second(session->backup.journal, point->seconds,
                                      g_get_real_time() / G_USEC_PER_SEC);
        }
    }
}

/* Returns the disks of the VM, queried again while a restore point seems to be cleared. */
static GPtrArray *look_at_disks(FlFleece *session, GError **error)
{
    const char *series = fl_snapshot_series(session->backup.options);

    for (unsigned left = LOOKS;; left--) {
        g_autoptr(GPtrArray) disks = fl_vm_disks(session->qmp, error);

        if (disks == NULL || left == 1 || !fl_fleece_seems_cleared(disks, series))
            return g_steal_pointer(&disks);
    }
}

static bool inspect(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    g_autoptr(GPtrArray) disks = NULL;
    FlVmVersion version;

    if (!fl_vm_check(session->qmp, &version, error))
        return false;
    disks = look_at_disks(session, error);
    if (disks == NULL)
        return false;
    fl_vm_look_at_devices(session->qmp, disks);
    note_seconds(session, disks);
    session->backup.disks = fl_fleece_plan(disks, session->backup.options, session->inconsistent,
                                           session->backup.notes, error);
    fl_fleece_add_missing(disks, session->backup.options, session->backup.missing);
    return session->backup.disks != NULL && check_iothreads(session, &version, error) &&
           fl_snapshot_check_room(&session->backup, session->scratch, &session->reserve, error);
}

static bool snapshot(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    const char *series = fl_snapshot_series(session->backup.options);
    gint64 second = fl_snapshot_set_time(&session->backup, session->backup.journal);

    for (guint i = 0; i < session->backup.disks->len; i++)
        fl_fleece_name_point(g_ptr_array_index(session->backup.disks, i), second);
    return fl_fleece_do(
        session, "transaction",
        fl_qmp_args(fl_qmp_node("actions", fl_json_array_node(fl_fleece_snapshot_actions(
                                               session->backup.disks, series)))),
        NULL, error, "cannot take the snapshot");
}

static bool export(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    fl_fleece_drop_tails(session);
    return fl_journal_set_second(session->backup.journal, session->backup.time.tv_sec, error) &&
           fl_fleece_export(session, error);
}

static bool journal(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    const FlSnapshotOptions *options = session->backup.options;
    FlJournalEntry entry = {
        .source = options->source,
        .series = fl_snapshot_series(options),
        .agent = session->agent_path,
    };

    if (session->backup.server_uri == NULL)
        entry.socket = session->socket = fl_fleece_choose_socket();
    return fl_journal_write(session->backup.journal, &entry, error);
}

static bool prepare(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;

    return fl_fleece_prepare(session, error) && fl_fleece_add_tails(session, error);
}

static bool forget_journal(FlSnapshot *backup, GError **error)
{
    return backup->left || fl_journal_forget(backup->journal, error);
}

/* Actions that do not write to an image are allowed during a migration. */
static bool allow_action(FlSnapshot *backup, FlAction action, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    bool migrating = action == FL_ACTION_SWEEP || action == FL_ACTION_LET_GO;
    g_autoptr(GError) failure = NULL;

    if (action == FL_ACTION_THAW || action == FL_ACTION_FORGET || action == FL_ACTION_JOURNAL)
        return true;
    /* If QEMU has exited or does not answer, the action itself reports it. */
    if (session->gone || session->qmp == NULL ||
        fl_fleece_check_owner(session, migrating, &failure) ||
        !fl_qmp_dispatch(session->qmp, 0, NULL))
        return true;
    g_propagate_error(error, g_steal_pointer(&failure));
    return false;
}

/* Allows reconnecting to a lost monitor, and checking that the NBD server has no client left before
 * it is stopped. */
static void allow(const FlSnapshot *backup, FlSandbox *sandbox)
{
    const FlFleece *session = (const FlFleece *)backup;

    fl_sandbox_allow_socket(sandbox, session->monitor);
    if (session->socket != NULL)
        fl_sandbox_allow_socket(sandbox, session->socket);
}

static bool check_nbd(const char *value, GError **error)
{
    if (!g_str_has_prefix(value, "nbd") || strstr(value, ":") == NULL)
        return fl_fail_usage(error, "'%s' is not an NBD URI such as nbd+unix:///?socket=PATH",
                             value);
    return true;
}

static const FlSourceOption options[] = {
    {"nbd", "URI", "NBD server that already runs in the VM", check_nbd},
    {0},
};

const FlProvider fl_qmp_provider = {
    .prefix = "qmp:",
    .usage = "qmp:PATH",
    .is_path = true,
    .options = options,
    .open = open_session,
    .allow_action = allow_action,
    .actions =
        {
            [FL_ACTION_INSPECT] = inspect,
            [FL_ACTION_JOURNAL] = journal,
            [FL_ACTION_SERVE] = fl_fleece_serve,
            [FL_ACTION_PREPARE] = prepare,
            [FL_ACTION_FREEZE] = fl_fleece_freeze,
            [FL_ACTION_SNAPSHOT] = snapshot,
            [FL_ACTION_THAW] = fl_fleece_thaw,
            [FL_ACTION_EXPORT] = export,
            [FL_ACTION_CHECK_JOBS] = fl_fleece_check_jobs,
            [FL_ACTION_LET_GO] = fl_fleece_let_go,
            [FL_ACTION_SWEEP] = fl_fleece_sweep,
            [FL_ACTION_ROLL_BACK] = fl_fleece_roll_back,
            [FL_ACTION_ROLL_FORWARD] = fl_fleece_roll_forward,
            [FL_ACTION_FORGET] = forget_journal,
        },
    .wait = fl_fleece_wait,
    .look = fl_fleece_look,
    .scratch_use = fl_fleece_scratch_use,
    .forget = fl_fleece_forget,
    .allow = allow,
    .release = release,
    .close = close_session,
};
