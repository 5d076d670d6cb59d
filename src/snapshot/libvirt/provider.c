/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The provider: opens and closes a session and implements each action. */
#include "snapshot/libvirt/options.h"
#include "snapshot/libvirt/session.h"

#include <string.h>
#include <unistd.h>

static void release(FlSnapshot *backup)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;

    fl_libvirt_end_images(session);
    fl_libvirt_disconnect(session);
    if (session->clients >= 0)
        close(session->clients);
    session->clients = -1;
    g_clear_pointer(&session->remote, fl_remote_free);
    backup->server_uri = NULL;
    backup->relay = NULL;
    g_clear_pointer(&backup->journal, fl_journal_close);
}

static void close_session(FlSnapshot *backup)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;

    release(backup);
    fl_domain_free(session->description);
    g_mutex_clear(&session->lock);
    g_cond_clear(&session->cond);
    g_clear_error(&session->late);
    g_free(session->name);
    g_free(session->uri);
    g_free(session->scratch);
    g_free(session->socket);
    g_free(session->secret);
    g_free(session->point);
    g_free(session->address);
    fl_listen_clear(&session->listen);
    fl_snapshot_clear(backup);
    g_free(session);
}

/* "libvirt:DOMAIN?connect=URI" */
static bool parse_source(FlLibvirtSession *session, const char *source, GError **error)
{
    static const char mark[] = "?connect=";
    const char *name = source + strlen("libvirt:");
    const char *uri = strstr(name, mark);

    session->name = uri != NULL ? g_strndup(name, (gsize)(uri - name)) : g_strdup(name);
    if (uri != NULL)
        session->uri = g_strdup(uri + strlen(mark));
    if (session->name[0] == '\0')
        return fl_fail_usage(error, "%s: no domain is given; virsh list --all shows the domains",
                             source);
    if (uri != NULL && session->uri[0] == '\0')
        return fl_fail_usage(error, "%s: connect= takes a URI, such as qemu:///system", source);
    return true;
}

/* A path on another host is not relative to our working directory. */
static bool check_scratch(const FlLibvirtSession *session, GError **error)
{
    const char *given = session->backup.options->scratch;

    return session->remote == NULL ||
           fl_remote_check_name(session->remote, given != NULL ? given : session->scratch, error);
}

/* Checked on opening only: recovery and forgetting need no NBD server, see inspect(). */
static bool check_listen(const FlLibvirtSession *session, GError **error)
{
    return session->listen.certificates == NULL || session->remote != NULL ||
           fl_fail_usage(error, "option nbd_tls applies to VMs on another host "
                                "(?connect=qemu+tls://HOST/system, or qemu+ssh)");
}

static FlSnapshot *open_session(const FlSnapshotOptions *options, GError **error)
{
    FlLibvirtSession *session = g_new0(FlLibvirtSession, 1);
    g_autoptr(FlSnapshot) backup = &session->backup;
    g_autofree char *directory = NULL;

    fl_snapshot_init(backup, &fl_libvirt_provider, options);
    session->clients = -1;
    g_mutex_init(&session->lock);
    g_cond_init(&session->cond);
    session->scratch =
        g_canonicalize_filename(options->scratch != NULL ? options->scratch : "/var/tmp", NULL);
    if (!parse_source(session, options->source, error) ||
        !fl_listen_init(&session->listen, options, error))
        return NULL;
    if (!fl_libvirt_connect(session, error)) {
        g_prefix_error(error, "%s: ", options->source);
        return NULL;
    }
    backup->vm.source = g_strdup(options->source);
    backup->vm.uuid = g_strdup(session->uuid);
    backup->vm.name = g_strdup(virDomainGetName(session->domain));
    if (!check_scratch(session, error) || !check_listen(session, error) ||
        !fl_libvirt_check_owner(session, false, error))
        return NULL;
    directory = fl_state_directory(error);
    if (directory == NULL)
        return NULL;
    /* The same lock as for a qmp: session, so that the two exclude each other. */
    backup->journal = fl_journal_open(directory, session->uuid, options->mountpoint, error);
    return backup->journal != NULL ? g_steal_pointer(&backup) : NULL;
}

static bool check_user(const FlLibvirtSession *session, GError **error)
{
    gint64 user = session->description->user;

    /* On another host, the script that creates the socket's directory checks the user. */
    if (session->remote != NULL || geteuid() == 0 || user < 0 || user == (gint64)geteuid())
        return true;
    return fl_fail(error,
                   "the VM's process runs as user %" G_GINT64_FORMAT
                   ", whose socket this user cannot reach: run fleecefs as root",
                   user);
}

static bool ask_version(FlLibvirtCall *call)
{
    unsigned long version = 0;
    bool ok = virConnectGetVersion(virDomainGetConnect(call->domain), &version) == 0;

    call->value = (int64_t)version;
    return ok;
}

/* Called only if needed: the query may take libvirt seconds. */
static bool disconnect_kills(FlLibvirtSession *session)
{
    g_autoptr(FlLibvirtCall) version = fl_libvirt_call_new(ask_version, NULL, NULL);

    for (guint i = 0; i < session->description->disks->len; i++) {
        const FlDomainDisk *disk = g_ptr_array_index(session->description->disks, i);
        if (disk->iothread)
            return !fl_libvirt_ask(session, version) ||
                   fl_snapshot_disconnect_kills((unsigned)(version->value / 1000000),
                                                (unsigned)(version->value / 1000 % 1000),
                                                (unsigned)(version->value % 1000));
    }
    return false;
}

static bool check_room(FlLibvirtSession *session, GError **error)
{
    uint64_t room = 0;

    if (session->remote == NULL)
        return fl_snapshot_check_room(&session->backup, session->scratch, &session->reserve, error);
    if (!(fl_remote_has_ssh(session->remote)
              ? fl_remote_room(session->remote, session->scratch, &room, error)
              : fl_pool_room(session, &room, error))) {
        g_prefix_error(error, "scratch directory %s: ", session->scratch);
        return false;
    }
    return fl_snapshot_check_this_room(&session->backup, session->scratch, room, &session->reserve,
                                       error);
}

static bool ask_persistent(FlLibvirtCall *call)
{
    return (call->value = virDomainIsPersistent(call->domain)) >= 0;
}

/* Sets session->running and session->description. */
static bool read_domain(FlLibvirtSession *session, GError **error)
{
    g_autofree char *xml = NULL;
    int active = fl_libvirt_active(session, error);

    if (active < 0 || (active > 0 && !fl_libvirt_check_idle(session, error)))
        return false;
    session->running = active > 0;
    xml = fl_libvirt_domain_xml(session, error);
    session->description = xml != NULL ? fl_domain_parse(xml, error) : NULL;
    return session->description != NULL && fl_libvirt_look_at_images(session, error) &&
           check_user(session, error);
}

static bool plan(FlLibvirtSession *session, GError **error)
{
    FlSnapshot *backup = &session->backup;
    g_autoptr(GPtrArray) checkpoints = fl_libvirt_checkpoints(session, error);

    if (checkpoints == NULL)
        return false;
    if (session->remote != NULL && session->running && backup->options->read_only)
        return fl_fail(error, "the images of read-only disks are on another host: omit -o "
                              "read_only, or run fleecefs there");
    backup->disks =
        fl_libvirt_plan(session->description, checkpoints, session->running,
                        disconnect_kills(session), backup->options, backup->notes, error);
    if (backup->disks == NULL)
        return false;
    fl_libvirt_add_missing(session->description, session->running, backup->options,
                           backup->missing);
    if (!session->running && session->remote != NULL && !fl_remote_has_ssh(session->remote))
        return fl_fail(error, "the VM is shut off, and its images on another host can be read only "
                              "by ssh: use ?connect=qemu+ssh://HOST/system, start it, or run "
                              "fleecefs there");
    return true;
}

static bool inspect(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    g_autoptr(FlLibvirtCall) persistent = fl_libvirt_call_new(ask_persistent, NULL, NULL);

    if (session->remote != NULL && !fl_remote_has_ssh(session->remote) &&
        session->listen.certificates == NULL)
        return fl_fail_usage(error, "without ssh the disks are read by NBD over TLS: give the "
                                    "folder of the certificates with -o nbd_tls=DIR");
    if (session->remote != NULL && backup->options->scratch_encrypt)
        return fl_fail_usage(error, "option scratch_encrypt applies to VMs on this host: instead, "
                                    "name a directory on encrypted storage there with "
                                    "-o scratch=DIR");
    if (!read_domain(session, error))
        return false;
    backup->max_clients = session->running ? FL_SNAPSHOT_SERVER_CLIENTS : 0;
    if (!plan(session, error))
        return false;
    if (!session->running) {
        fl_snapshot_note(backup, "the VM is shut off: its images are shown, and it cannot be "
                                 "started while mounted; a commit creates no restore point");
        return true;
    }
    if (fl_libvirt_ask(session, persistent) && persistent->value == 0)
        fl_snapshot_note(backup, "the VM is transient: libvirt forgets its restore points when the "
                                 "VM ends, and the next backup is full");
    return check_room(session, error);
}

static bool journal(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    const FlSnapshotOptions *options = backup->options;
    FlJournalEntry entry = {.source = options->source, .series = fl_snapshot_series(options)};

    if (!session->running)
        return true;
    if (session->description->agent)
        entry.agent = "libvirt";
    else if (options->agent != NULL && !options->agent_optional)
        return fl_fail(error, "the guest cannot be frozen: its agent is not connected");
    entry.socket = session->socket = fl_libvirt_choose_socket(session);
    return fl_journal_write(backup->journal, &entry, error);
}

static bool forget_journal(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    bool ok = backup->left || session->doubtful || fl_journal_forget(backup->journal, error);

    if (ok && session->late != NULL) {
        g_propagate_error(error, g_steal_pointer(&session->late));
        ok = false;
    }
    return ok;
}

static bool allow_action(FlSnapshot *backup, FlAction action, GError **error)
{
    bool jobs = action == FL_ACTION_ROLL_BACK || action == FL_ACTION_ROLL_FORWARD;

    if (!jobs && action != FL_ACTION_SWEEP && action != FL_ACTION_INSPECT &&
        action != FL_ACTION_SNAPSHOT)
        return true;
    return fl_libvirt_check_owner((FlLibvirtSession *)backup, jobs, error);
}

/* Allows reconnecting if libvirtd restarts: the files that its client library reads, and the lock
 * directory of a per-user libvirtd. */
static void allow(const FlSnapshot *backup, FlSandbox *sandbox)
{
    const FlLibvirtSession *session = (const FlLibvirtSession *)backup;
    g_autofree char *config = g_build_filename(g_get_user_config_dir(), "libvirt", NULL);
    g_autofree char *runtime = g_build_filename(g_get_user_runtime_dir(), "libvirt", NULL);

    fl_sandbox_allow_names(sandbox);
    fl_sandbox_allow_sockets(sandbox);
    fl_sandbox_allow(sandbox, "/etc/libvirt/libvirt.conf", FL_SANDBOX_READ);
    fl_sandbox_allow(sandbox, "/etc/pki/libvirt", FL_SANDBOX_READ);
    fl_sandbox_allow(sandbox, "/etc/pki/CA", FL_SANDBOX_READ);
    if (session->remote != NULL)
        fl_remote_allow(session->remote, sandbox);
    fl_sandbox_allow(sandbox, config, FL_SANDBOX_READ);
    fl_sandbox_allow(sandbox, runtime, FL_SANDBOX_READ | FL_SANDBOX_WRITE);
}

const FlProvider fl_libvirt_provider = {
    .prefix = "libvirt:",
    .usage = "libvirt:DOMAIN",
    .options = fl_libvirt_options,
    .open = open_session,
    .allow_action = allow_action,
    .actions =
        {
            [FL_ACTION_INSPECT] = inspect,
            [FL_ACTION_JOURNAL] = journal,
            [FL_ACTION_SERVE] = fl_libvirt_serve,
            [FL_ACTION_PREPARE] = fl_libvirt_prepare,
            [FL_ACTION_FREEZE] = fl_libvirt_freeze,
            [FL_ACTION_SNAPSHOT] = fl_libvirt_snapshot,
            [FL_ACTION_THAW] = fl_libvirt_thaw,
            [FL_ACTION_EXPORT] = fl_libvirt_export,
            [FL_ACTION_CHECK_JOBS] = fl_libvirt_check_job,
            [FL_ACTION_LET_GO] = fl_libvirt_let_go,
            [FL_ACTION_SWEEP] = fl_libvirt_sweep,
            [FL_ACTION_ROLL_BACK] = fl_libvirt_roll_back,
            [FL_ACTION_ROLL_FORWARD] = fl_libvirt_roll_forward,
            [FL_ACTION_FORGET] = forget_journal,
        },
    .wait = fl_libvirt_wait,
    .look = fl_libvirt_look,
    .scratch_use = fl_libvirt_scratch_use,
    .forget = fl_libvirt_forget,
    .allow = allow,
    .release = release,
    .close = close_session,
};
