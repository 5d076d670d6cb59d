/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/libvirt/session.h"

#include <string.h>
#include <unistd.h>

/* The first version of QEMU that is known not to abort when an NBD client leaves a disk in an
 * iothread (see snapshot/qmp/vm.h), as libvirt numbers them. */
#define SAFE_DISCONNECT 8002003

static void release(FlSnapshot *backup)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;

    fl_libvirt_disconnect(session);
    g_clear_pointer(&session->journal, fl_journal_close);
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
    g_free(session->point);
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
        return fl_fail_usage(error, "%s: no domain is named; virsh list --all shows them", source);
    if (uri != NULL && session->uri[0] == '\0')
        return fl_fail_usage(error, "%s: connect= wants a URI, like qemu:///system", source);
    return true;
}

static FlSnapshot *open_session(const FlSnapshotOptions *options, GError **error)
{
    FlLibvirtSession *session = g_new0(FlLibvirtSession, 1);
    g_autoptr(FlSnapshot) backup = &session->backup;
    g_autofree char *directory = NULL;

    fl_snapshot_init(backup, &fl_libvirt_backup_ops, options);
    g_mutex_init(&session->lock);
    g_cond_init(&session->cond);
    session->scratch =
        g_canonicalize_filename(options->scratch != NULL ? options->scratch : "/var/tmp", NULL);
    if (!parse_source(session, options->source, error))
        return NULL;
    if (options->nbd != NULL) {
        fl_fail_usage(error, "%s: libvirt starts a server of its own (nbd= is for qmp:)",
                      options->source);
        return NULL;
    }
    if (!fl_libvirt_connect(session, error)) {
        g_prefix_error(error, "%s: ", options->source);
        return NULL;
    }
    backup->vm.source = g_strdup(options->source);
    backup->vm.uuid = g_strdup(session->uuid);
    backup->vm.name = g_strdup(virDomainGetName(session->domain));
    if (!fl_libvirt_check_owner(session, false, error))
        return NULL;
    directory = fl_state_directory(error);
    if (directory == NULL)
        return NULL;
    /* The same as of a qmp: session, so that the two keep out of each other's way. */
    session->journal = fl_journal_open(directory, session->uuid, error);
    return session->journal != NULL ? g_steal_pointer(&backup) : NULL;
}

static bool check_user(const FlLibvirtSession *session, GError **error)
{
    gint64 user = session->description->user;

    if (geteuid() == 0 || user < 0 || user == (gint64)geteuid())
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

/* Asked only where it matters: libvirt may take seconds to find out. */
static bool disconnect_kills(FlLibvirtSession *session)
{
    g_autoptr(FlLibvirtCall) version = fl_libvirt_call_new(ask_version, NULL, NULL);

    for (guint i = 0; i < session->description->disks->len; i++) {
        const FlDomainDisk *disk = g_ptr_array_index(session->description->disks, i);
        if (disk->iothread)
            return !fl_libvirt_ask(session, version) || version->value < SAFE_DISCONNECT;
    }
    return false;
}

static bool ask_persistent(FlLibvirtCall *call)
{
    return (call->value = virDomainIsPersistent(call->domain)) >= 0;
}

static bool inspect(FlLibvirtSession *session, GError **error)
{
    FlSnapshot *backup = &session->backup;
    g_autoptr(GPtrArray) checkpoints = NULL;
    g_autoptr(FlLibvirtCall) persistent = fl_libvirt_call_new(ask_persistent, NULL, NULL);
    g_autofree char *xml = NULL;
    int active = fl_libvirt_active(session, error);

    if (active < 0 || (active > 0 && !fl_libvirt_check_idle(session, error)))
        return false;
    session->running = active > 0;
    xml = fl_libvirt_domain_xml(session, error);
    session->description = xml != NULL ? fl_domain_parse(xml, error) : NULL;
    if (session->description == NULL || !fl_libvirt_look_at_images(session, error) ||
        !check_user(session, error))
        return false;
    checkpoints = fl_libvirt_checkpoints(session, error);
    if (checkpoints == NULL)
        return false;
    backup->disks =
        fl_libvirt_plan(session->description, checkpoints, session->running,
                        disconnect_kills(session), backup->options, backup->notes, error);
    if (backup->disks == NULL)
        return false;
    if (!session->running) {
        fl_snapshot_note(backup,
                         "the VM is shut off: its images are shown, and it cannot be started "
                         "while they are; a commit makes no restore point");
        return true;
    }
    if (fl_libvirt_ask(session, persistent) && persistent->value == 0)
        fl_snapshot_note(backup, "the VM is transient: libvirt forgets its restore points when it "
                                 "ends, and the backup after that is a full one");
    return fl_snapshot_check_room(backup, session->scratch, &session->reserve, error);
}

static bool journal(FlLibvirtSession *session, GError **error)
{
    const FlSnapshotOptions *options = session->backup.options;
    FlJournalEntry entry = {.source = options->source, .series = fl_snapshot_series(options)};

    if (!session->running)
        return true;
    if (session->description->agent)
        entry.agent = "libvirt";
    else if (options->agent != NULL && !options->agent_optional)
        return fl_fail(error, "the guest cannot be frozen: its agent is not connected");
    entry.socket = session->socket = fl_libvirt_choose_socket(session);
    return fl_journal_write(session->journal, &entry, error);
}

static bool forget(FlLibvirtSession *session, GError **error)
{
    bool ok = session->left || session->doubtful || fl_journal_forget(session->journal, error);

    if (ok && session->late != NULL) {
        g_propagate_error(error, g_steal_pointer(&session->late));
        ok = false;
    }
    return ok;
}

/* Whether ACTION may be carried out, on disks that must be those of this QEMU. */
static bool may_run(FlLibvirtSession *session, FlAction action, GError **error)
{
    bool ends = action == FL_ACTION_SWEEP || action == FL_ACTION_ROLL_BACK;
    bool jobs = action == FL_ACTION_ROLL_BACK || action == FL_ACTION_ROLL_FORWARD;

    if (!ends && !jobs && action != FL_ACTION_INSPECT && action != FL_ACTION_SNAPSHOT)
        return true;
    if (fl_libvirt_check_owner(session, jobs, error))
        return true;
    if (ends) {
        session->left = true;
        g_prefix_error(error, "nothing was written to the disks, and what is left of this session "
                              "goes with the next one, or with fleecefs --recover: ");
    }
    return false;
}

static bool run(FlSnapshot *backup, FlAction action, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
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
    case FL_ACTION_PREPARE: /* libvirt makes the scratch files */
        return true;
    case FL_ACTION_INSPECT:
        return inspect(session, error);
    case FL_ACTION_JOURNAL:
        return journal(session, error);
    case FL_ACTION_SERVE:
        return fl_libvirt_serve(session, error);
    case FL_ACTION_FREEZE:
        return fl_libvirt_freeze(session, error);
    case FL_ACTION_SNAPSHOT:
        return fl_libvirt_snapshot(session, error);
    case FL_ACTION_THAW:
        return fl_libvirt_thaw(session, error);
    case FL_ACTION_EXPORT:
        return fl_libvirt_export(session, error);
    case FL_ACTION_CHECK_JOBS:
        return fl_libvirt_check_job(session, error);
    case FL_ACTION_LET_GO:
        return fl_libvirt_let_go(session, error);
    case FL_ACTION_SWEEP:
        return fl_libvirt_sweep(session, error);
    case FL_ACTION_ROLL_BACK:
        return fl_libvirt_roll_back(session, error);
    case FL_ACTION_ROLL_FORWARD:
        return fl_libvirt_roll_forward(session, error);
    case FL_ACTION_FORGET:
        return forget(session, error);
    }
    g_assert_not_reached();
}

/* For another connection, should libvirtd be started anew: what its client library reads, and where
 * a user's own libvirtd has its locks. */
static void allow(const FlSnapshot *backup, FlSandbox *sandbox)
{
    g_autofree char *config = g_build_filename(g_get_user_config_dir(), "libvirt", NULL);
    g_autofree char *runtime = g_build_filename(g_get_user_runtime_dir(), "libvirt", NULL);

    fl_sandbox_allow_names(sandbox);
    fl_sandbox_allow_sockets(sandbox);
    fl_sandbox_allow(sandbox, "/etc/libvirt/libvirt.conf", FL_SANDBOX_READ);
    fl_sandbox_allow(sandbox, "/etc/pki/libvirt", FL_SANDBOX_READ);
    fl_sandbox_allow(sandbox, "/etc/pki/CA", FL_SANDBOX_READ);
    fl_sandbox_allow(sandbox, config, FL_SANDBOX_READ);
    fl_sandbox_allow(sandbox, runtime, FL_SANDBOX_READ | FL_SANDBOX_WRITE);
}

const FlSnapshotOps fl_libvirt_backup_ops = {
    .open = open_session,
    .run = run,
    .wait = fl_libvirt_wait,
    .look = fl_libvirt_look,
    .scratch_use = fl_libvirt_scratch_use,
    .forget = fl_libvirt_forget,
    .allow = allow,
    .release = release,
    .close = close_session,
};
