/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The backup job: libvirt starts it with its NBD server and scratch files, and ends all of it
 * together.
 *
 * Socket and scratch files are made by the VM's process, in a directory that we make for it, which
 * nobody else may enter. Its name, in the job's XML, tells that the job is ours.
 */
#include "snapshot/libvirt/session.h"

#include "map/context.h"
#include "snapshot/point.h"
#include "util/clients.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <libvirt/virterror.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define PREFIX "fleecefs-"
/* More advice: root is denied something by these, as a rule. */
#define CONFINED "; AppArmor and SELinux have to allow its socket: man fleecefs, SECURITY"
/* Milliseconds: for a job to begin or end, and between looks at it then. */
#define CHANGE_TIMEOUT  10000
#define CHANGE_INTERVAL 20
/* Milliseconds for clients of the NBD server to leave; less while the guest's writes may wait. */
#define LEAVE_TIMEOUT  5000
#define LET_GO_TIMEOUT 2000

/* Whether SOCKET is where a session of ours has one. */
static bool is_our_socket(const char *socket)
{
    g_autofree char *directory = socket != NULL ? g_path_get_dirname(socket) : NULL;
    g_autofree char *name = directory != NULL ? g_path_get_basename(directory) : NULL;

    return name != NULL && g_str_has_prefix(name, PREFIX) && g_str_has_suffix(socket, "/nbd");
}

static bool ask_backup(FlLibvirtCall *call)
{
    return fl_libvirt_call_take(call, virDomainBackupGetXMLDesc(call->domain, 0));
}

/* Whether CALL failed because there is no VM any more. */
static bool has_ended(const FlLibvirtSession *session, const FlLibvirtCall *call)
{
    return session->gone || (!call->silent && (call->code == VIR_ERR_NO_DOMAIN ||
                                               call->code == VIR_ERR_OPERATION_INVALID));
}

/* Of this session, or before there is one, of any. */
static bool is_ours(const FlLibvirtSession *session, const FlDomainBackup *backup)
{
    return session->socket != NULL ? g_strcmp0(session->socket, backup->socket) == 0
                                   : is_our_socket(backup->socket);
}

FlLibvirtJob fl_libvirt_job(FlLibvirtSession *session, FlDomainBackup **backup, GError **error)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_backup, NULL, NULL);
    g_autoptr(FlDomainBackup) found = NULL;
    bool ours;

    if (!fl_libvirt_ask(session, call)) {
        if (has_ended(session, call) || (!call->silent && call->code == VIR_ERR_NO_DOMAIN_BACKUP))
            return FL_LIBVIRT_JOB_NONE;
        fl_libvirt_fail(error, call, "backup job");
        return FL_LIBVIRT_JOB_UNKNOWN;
    }
    found = fl_domain_backup_parse(call->string, error);
    if (found == NULL)
        return FL_LIBVIRT_JOB_UNKNOWN;
    ours = is_ours(session, found);
    if (backup != NULL)
        *backup = g_steal_pointer(&found);
    return ours ? FL_LIBVIRT_JOB_OURS : FL_LIBVIRT_JOB_OTHER;
}

/* libvirt has no numbers yet of a backup that it is only just beginning. */
static bool is_beginning(FlLibvirtCall *call)
{
    fl_libvirt_call_note_error(call);
    call->value = FL_LIBVIRT_PROGRESS_CHANGING;
    return call->code == VIR_ERR_INTERNAL_ERROR && virDomainIsActive(call->domain) == 1;
}

/* Its value is a FlLibvirtProgress; its string, the description of a backup that goes on. */
static bool ask_progress(FlLibvirtCall *call)
{
    virTypedParameterPtr params = NULL;
    unsigned long long total = 0;
    int type = VIR_DOMAIN_JOB_NONE, n = 0, operation = VIR_DOMAIN_JOB_OPERATION_UNKNOWN;
    bool ok = virDomainGetJobStats(call->domain, &type, &params, &n, 0) == 0;

    if (!ok)
        return is_beginning(call);
    virTypedParamsGetInt(params, n, VIR_DOMAIN_JOB_OPERATION, &operation);
    if (virTypedParamsGetULLong(params, n, VIR_DOMAIN_JOB_DISK_TEMP_TOTAL, &total) != 1)
        virTypedParamsGetULLong(params, n, VIR_DOMAIN_JOB_DISK_TOTAL, &total);
    virTypedParamsFree(params, n);
    if (type == VIR_DOMAIN_JOB_NONE)
        call->value = FL_LIBVIRT_PROGRESS_NONE;
    else if (operation != VIR_DOMAIN_JOB_OPERATION_BACKUP)
        call->value = FL_LIBVIRT_PROGRESS_OTHER;
    else
        call->value = total > 0 ? FL_LIBVIRT_PROGRESS_STEADY : FL_LIBVIRT_PROGRESS_CHANGING;
    call->total = total;
    return call->value != FL_LIBVIRT_PROGRESS_STEADY || ask_backup(call) ||
           virGetLastErrorCode() == VIR_ERR_NO_DOMAIN_BACKUP;
}

FlLibvirtProgress fl_libvirt_progress(FlLibvirtSession *session, uint64_t *total, GError **error)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_progress, NULL, NULL);
    g_autoptr(FlDomainBackup) backup = NULL;

    if (!fl_libvirt_ask(session, call)) {
        if (has_ended(session, call))
            return FL_LIBVIRT_PROGRESS_NONE;
        fl_libvirt_fail(error, call, "backup job");
        return FL_LIBVIRT_PROGRESS_UNKNOWN;
    }
    if (call->string != NULL)
        backup = fl_domain_backup_parse(call->string, NULL);
    *total = backup != NULL && is_ours(session, backup) ? call->total : 0;
    return (FlLibvirtProgress)call->value;
}

/*
 * Waits until a backup that is being begun goes on, by a daemon that has died, or whose connection
 * was lost: to end it earlier, or to delete its checkpoint, makes libvirtd crash (seen with 9.0).
 */
static bool settle(FlLibvirtSession *session, GError **error)
{
    gint64 end = g_get_monotonic_time() + CHANGE_TIMEOUT * G_TIME_SPAN_MILLISECOND;
    FlLibvirtProgress progress;
    uint64_t total;

    while ((progress = fl_libvirt_progress(session, &total, error)) ==
           FL_LIBVIRT_PROGRESS_CHANGING) {
        if (g_get_monotonic_time() >= end)
            return fl_fail(error, "libvirt has been about to begin or end a backup for too long; "
                                  "when it is done: fleecefs --recover");
        g_usleep(CHANGE_INTERVAL * G_TIME_SPAN_MILLISECOND);
    }
    return progress != FL_LIBVIRT_PROGRESS_UNKNOWN;
}

bool fl_libvirt_check_idle(FlLibvirtSession *session, GError **error)
{
    g_autoptr(FlDomainBackup) backup = NULL;
    FlLibvirtJob job = fl_libvirt_job(session, &backup, error);
    FlLibvirtProgress progress;
    uint64_t total;

    if (job == FL_LIBVIRT_JOB_UNKNOWN)
        return false;
    if (job != FL_LIBVIRT_JOB_NONE) {
        const char *file = backup->socket != NULL ? backup->socket : backup->file;
        return fl_fail(error,
                       "another tool's backup is in progress (mode %s, at %s); let it finish, or "
                       "end it with: virsh domjobabort %s",
                       backup->mode, file != NULL ? file : "no local file", session->name);
    }
    progress = fl_libvirt_progress(session, &total, error);
    if (progress != FL_LIBVIRT_PROGRESS_NONE && progress != FL_LIBVIRT_PROGRESS_UNKNOWN)
        fl_fail(error,
                "a job of libvirt (like a migration) is in progress; let it finish, "
                "see virsh domjobinfo %s",
                session->name);
    return progress == FL_LIBVIRT_PROGRESS_NONE;
}

char *fl_libvirt_choose_socket(const FlLibvirtSession *session)
{
    return g_strdup_printf("%s/" PREFIX "%08x%08x/nbd", session->scratch, g_random_int(),
                           g_random_int());
}

bool fl_libvirt_serve(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    g_autofree char *directory = NULL;
    const FlDomain *domain = session->description;

    if (session->socket == NULL)
        return true;
    directory = g_path_get_dirname(session->socket);
    if (strlen(session->socket) >= sizeof((struct sockaddr_un *)NULL)->sun_path)
        return fl_fail(error,
                       "scratch directory %s: the path is too long for a socket in it; "
                       "-o scratch=DIR names another",
                       session->scratch);
    if (session->remote != NULL) {
        if (fl_remote_make(session->remote, directory, domain->user, domain->group, error))
            return true;
        g_prefix_error(error, "scratch directory %s: ", session->scratch);
        return false;
    }
    if (g_mkdir(directory, 0700) < 0 ||
        (geteuid() == 0 && domain->user >= 0 &&
         chown(directory, (uid_t)domain->user, (gid_t)domain->group) < 0))
        return fl_fail(error, "scratch directory %s: %s; -o scratch=DIR names another",
                       session->scratch, g_strerror(errno));
    return true;
}

static bool ask_begin(FlLibvirtCall *call)
{
    return virDomainBackupBegin(call->domain, call->text, call->more, 0) == 0;
}

FlDomainPart *fl_libvirt_parts(const FlLibvirtSession *session)
{
    const GPtrArray *disks = session->backup.disks;
    FlDomainPart *parts = g_new0(FlDomainPart, disks->len);

    for (guint i = 0; i < disks->len; i++) {
        const FlLibvirtDisk *disk = g_ptr_array_index(disks, i);
        parts[i] = (FlDomainPart){
            .target = disk->disk.name,
            .checkpoint = disk->checkpoint,
            .export_name = disk->disk.export_name,
            .bitmap = fl_snapshot_series(session->backup.options),
            .point = disk->point,
            .size = disk->disk.size,
            .disk_id = disk->disk.disk_id,
            .keys = disk->keys,
            .witness = disk->witness,
        };
    }
    return parts;
}

/* What starts the job with all disks as they are planned. */
static FlLibvirtCall *begin(const FlLibvirtSession *session)
{
    const GPtrArray *disks = session->backup.disks;
    g_autofree FlDomainPart *parts = fl_libvirt_parts(session);
    g_autofree char *directory = g_path_get_dirname(session->socket);
    g_autofree char *backup = fl_domain_backup_xml(parts, disks->len, session->socket, directory);
    g_autofree char *checkpoint = NULL;

    if (session->point != NULL)
        checkpoint = fl_checkpoint_xml(parts, disks->len, session->point);
    return fl_libvirt_call_new(ask_begin, backup, checkpoint);
}

/*
 * After libvirt said that a bitmap is missing or broken: makes the disks full that it speaks of, or
 * if none is found in its words, all. False if all of them were already.
 */
static bool drop_bases(const GPtrArray *disks, const char *message)
{
    bool dropped = false;

    for (int pass = 0; pass < 2 && !dropped; pass++) {
        for (guint i = 0; i < disks->len; i++) {
            FlLibvirtDisk *disk = g_ptr_array_index(disks, i);
            g_autofree char *quoted = g_strdup_printf("'%s'", disk->disk.name);

            if (disk->checkpoint == NULL || (pass == 0 && strstr(message, quoted) == NULL))
                continue;
            fl_libvirt_make_full(
                disk, g_strdup_printf("restore point %s is lost, because the VM did not end "
                                      "cleanly or its image was replaced (%s)",
                                      disk->checkpoint, message));
            dropped = true;
        }
    }
    return dropped;
}

void fl_libvirt_name_disks(const FlSnapshot *backup)
{
    for (guint i = 0; i < backup->disks->len; i++) {
        FlSnapshotDisk *disk = g_ptr_array_index(backup->disks, i);
        g_autofree char *id = disk->disk_id == NULL ? fl_point_id(backup->time.tv_sec) : NULL;

        if (id != NULL)
            disk->disk_id = fl_point_disk_id(id, disk->size, NULL);
    }
}

/* What libvirt says of its files has their path in it. */
static bool fail_to_begin(const FlLibvirtSession *session, const FlLibvirtCall *call,
                          GError **error)
{
    if (call->message != NULL && strstr(call->message, session->scratch) != NULL)
        return fl_libvirt_fail(error, call,
                               "cannot take the snapshot (the VM's process must be able to write "
                               "in %s; -o scratch=DIR names another%s)",
                               session->scratch,
                               strstr(call->message, "Permission denied") != NULL ? CONFINED : "");
    return fl_libvirt_fail(error, call, "cannot take the snapshot");
}

bool fl_libvirt_snapshot(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;

    fl_snapshot_set_time(backup, session->backup.journal);
    fl_libvirt_name_disks(backup);
    if (!session->running)
        return true;
    for (guint i = 0; i < backup->disks->len; i++) {
        FlLibvirtDisk *disk = g_ptr_array_index(backup->disks, i);
        if (!disk->point)
            continue;
        disk->disk.restore_point = g_strdup(backup->id);
        if (session->point == NULL)
            session->point = fl_point_bitmap(fl_snapshot_series(backup->options), backup->id);
    }
    for (;;) {
        g_autoptr(FlLibvirtCall) call = NULL;

        fl_libvirt_name_disks(backup);
        call = begin(session);
        if (fl_libvirt_ask_once(session, call))
            return true;
        if (call->silent || call->code != VIR_ERR_CHECKPOINT_INCONSISTENT ||
            !drop_bases(backup->disks, call->message))
            return fail_to_begin(session, call, error);
    }
}

/* What libvirt says that it made of our wishes. */
static bool read_back(FlSnapshot *backup, const FlDomainBackup *job, GError **error)
{
    for (guint i = 0; i < backup->disks->len; i++) {
        FlSnapshotDisk *disk = g_ptr_array_index(backup->disks, i);
        const FlDomainExport *export = NULL;

        for (guint k = 0; k < job->disks->len; k++) {
            const FlDomainExport *candidate = g_ptr_array_index(job->disks, k);
            if (g_str_equal(candidate->target, disk->name))
                export = candidate;
        }
        if (export == NULL || (disk->bitmaps->len > 0 && export->bitmap == NULL))
            return fl_fail(error, "disk %s: libvirt did not export it as it was asked to",
                           disk->name);
        g_free(disk->export_name);
        disk->export_name =
            g_strdup(export->export_name != NULL ? export->export_name : disk->name);
        if (disk->bitmaps->len > 0) {
            FlBitmap *bitmap = g_ptr_array_index(disk->bitmaps, 0);
            g_free(bitmap->context);
            bitmap->context = fl_context_of_bitmap(export->bitmap);
        }
    }
    return true;
}

static bool find_server(FlLibvirtSession *session, GError **error)
{
    FlSnapshot *backup = &session->backup;

    if (session->remote != NULL) {
        backup->server_uri = fl_remote_serve(session->remote, session->socket, error);
        return backup->server_uri != NULL;
    }
    session->clients = fl_clients_open(session->socket, CHANGE_TIMEOUT);
    backup->socket = open(session->socket, O_PATH | O_CLOEXEC);
    return backup->socket >= 0 || fl_fail(error, "%s: %s", session->socket, g_strerror(errno));
}

bool fl_libvirt_export(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    g_autoptr(FlDomainBackup) job = NULL;

    if (!fl_journal_set_second(session->backup.journal, backup->time.tv_sec, error))
        return false;
    if (!session->running)
        return true;
    if (fl_libvirt_job(session, &job, error) == FL_LIBVIRT_JOB_UNKNOWN ||
        fl_libvirt_progress(session, &session->total, error) == FL_LIBVIRT_PROGRESS_UNKNOWN)
        return false;
    if (job == NULL || session->total == 0)
        return fl_fail(error, "the backup job has ended already");
    if (!read_back(backup, job, error))
        return false;
    if (!find_server(session, error))
        return false;
    fl_libvirt_compare(session);
    fl_libvirt_name_disks(backup);
    return true;
}

/* Its value is a FlLibvirtState. */
static bool ask_state(FlLibvirtCall *call)
{
    int state = 0, reason = 0;
    bool ok = virDomainGetState(call->domain, &state, &reason, 0) == 0;

    call->value = state != VIR_DOMAIN_PAUSED            ? FL_LIBVIRT_RUNS
                  : reason == VIR_DOMAIN_PAUSED_IOERROR ? FL_LIBVIRT_STOPPED_BY_ERROR
                                                        : FL_LIBVIRT_PAUSED;
    return ok;
}

FlLibvirtState fl_libvirt_state(FlLibvirtSession *session)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_state, NULL, NULL);

    return fl_libvirt_ask(session, call) ? (FlLibvirtState)call->value : FL_LIBVIRT_RUNS;
}

static bool ask_resume(FlLibvirtCall *call)
{
    return virDomainResume(call->domain) == 0;
}

/* A guest that was stopped because the scratch was full can go on: its write is tried again. */
static bool resume_guest(FlLibvirtSession *session, GError **error)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_resume, NULL, NULL);

    if (fl_libvirt_state(session) != FL_LIBVIRT_STOPPED_BY_ERROR)
        return true;
    fl_snapshot_report(&session->backup, "resumed the guest, which had stopped on ENOSPC");
    return fl_libvirt_ask(session, call) || fl_libvirt_fail(error, call, "guest");
}

static bool ask_abort(FlLibvirtCall *call)
{
    return virDomainAbortJob(call->domain) == 0;
}

static int count_clients(const FlLibvirtSession *session, const char *socket)
{
    return session->remote != NULL ? fl_remote_clients(session->remote, socket)
                                   : fl_clients_count(session->clients, socket);
}

/*
 * Whether nobody but ourselves is connected to SOCKET, where QEMU's NBD server listens, as far as
 * that is to be known. With a client that reads no replies QEMU stands still (seen in 7.2 and
 * 10.0), its monitor and libvirt with it, as soon as libvirt ends the job or deletes a
 * checkpoint, and until that client has left; and which client is one, cannot be seen.
 */
static bool clients_have_left(FlLibvirtSession *session, const char *socket, unsigned timeout,
                              GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout * 1000;

    if (session->clients < 0 && session->remote == NULL)
        session->clients = fl_clients_open(socket, timeout);
    while (count_clients(session, socket) > 0) {
        if (g_get_monotonic_time() >= end)
            return fl_fail(error,
                           "another client reads from the snapshot's NBD server, %s: end that one. "
                           "Until then the backup job stays: to end it could halt the VM",
                           socket);
        g_usleep(CHANGE_INTERVAL * G_TIME_SPAN_MILLISECOND);
    }
    return true;
}

/* Ends the job whose NBD server is at SOCKET. */
static bool end_job(FlLibvirtSession *session, const char *socket, unsigned patience,
                    GError **error)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_abort, NULL, NULL);
    gint64 end;
    FlLibvirtJob job;
    bool asked;

    session->backup.refused = !clients_have_left(session, socket, patience, error);
    if (session->backup.refused)
        return false;
    /* It is refused where the job is ending already. */
    asked = fl_libvirt_ask(session, call);
    if (call->silent)
        return fl_libvirt_fail(error, call, "backup job");
    end = g_get_monotonic_time() + CHANGE_TIMEOUT * G_TIME_SPAN_MILLISECOND;
    while ((job = fl_libvirt_job(session, NULL, error)) == FL_LIBVIRT_JOB_OURS) {
        if (g_get_monotonic_time() >= end)
            return asked ? fl_fail(error, "the backup job does not end")
                         : fl_libvirt_fail(error, call, "the backup job does not end");
        g_usleep(CHANGE_INTERVAL * G_TIME_SPAN_MILLISECOND);
    }
    fl_snapshot_report(&session->backup, "ended a backup job");
    return job != FL_LIBVIRT_JOB_UNKNOWN && resume_guest(session, error);
}

/* The directory of SOCKET, with the scratch files that libvirt did not remove. */
static bool remove_directory(FlLibvirtSession *session, const char *socket, GError **error)
{
    g_autofree char *path = NULL;
    g_autoptr(GDir) directory = NULL;
    const char *name;

    if (!is_our_socket(socket))
        return true;
    path = g_path_get_dirname(socket);
    if (session->remote != NULL)
        return fl_remote_remove(session->remote, path, error);
    directory = g_dir_open(path, 0, NULL);
    while (directory != NULL && (name = g_dir_read_name(directory)) != NULL) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_unlink(file);
    }
    g_rmdir(path);
    return true;
}

/* What is left of a job that is ours, if FOUND is one, and of what the journal tells. */
static bool remove_left(FlLibvirtSession *session, const FlDomainBackup *found, GError **error)
{
    const FlJournalEntry *entry = fl_journal_entry(session->backup.journal);
    const char *noted = entry != NULL ? entry->socket : NULL;

    if (found != NULL && (!end_job(session, found->socket, LEAVE_TIMEOUT, error) ||
                          !remove_directory(session, found->socket, error)))
        return false;
    return (found != NULL && g_strcmp0(found->socket, noted) == 0) ||
           remove_directory(session, noted, error);
}

bool fl_libvirt_sweep(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    g_autoptr(FlDomainBackup) found = NULL;
    FlLibvirtJob job =
        settle(session, error) ? fl_libvirt_job(session, &found, error) : FL_LIBVIRT_JOB_UNKNOWN;

    if (job != FL_LIBVIRT_JOB_UNKNOWN &&
        remove_left(session, job == FL_LIBVIRT_JOB_OURS ? found : NULL, error))
        return true;
    session->backup.left = true;
    g_prefix_error(error, "something is left, which fleecefs --recover puts back: ");
    return false;
}

bool fl_libvirt_check_clients(FlLibvirtSession *session, GError **error)
{
    return session->socket == NULL ||
           clients_have_left(session, session->socket, LET_GO_TIMEOUT, error);
}

bool fl_libvirt_let_go(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    /* libvirt ends the job for all disks or for none, so they are lost together. */
    return fl_libvirt_job(session, NULL, error) != FL_LIBVIRT_JOB_OURS ||
           end_job(session, session->socket, LET_GO_TIMEOUT, error);
}
