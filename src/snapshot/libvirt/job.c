/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The backup job: libvirt starts it together with its NBD server and scratch files, and ends all of
 * them together. */
#include "snapshot/libvirt/session.h"

#include "map/context.h"
#include "snapshot/point.h"

#include <libvirt/virterror.h>
#include <string.h>

/* Appended to "Permission denied": for root, AppArmor or SELinux is the usual cause. */
#define CONFINED "; AppArmor and SELinux must allow its socket: man fleecefs, SECURITY"
/* Milliseconds for a job to begin or end, and between checks meanwhile. */
#define CHANGE_TIMEOUT  10000
#define CHANGE_INTERVAL 20
/* Microseconds: how much the computed start times of one job may differ, beyond the duration of the
 * query; and how long a proof is valid. */
#define CLOCK_SLACK (1 * G_TIME_SPAN_SECOND)
#define PROOF_LIFE  (10 * G_TIME_SPAN_SECOND)
/* Milliseconds for clients of the NBD server to disconnect; less while guest writes may be
 * waiting. */
#define LEAVE_TIMEOUT 5000

static bool ask_backup(FlLibvirtCall *call)
{
    return fl_libvirt_call_take(call, virDomainBackupGetXMLDesc(call->domain, 0));
}

/* Whether CALL failed because the VM no longer runs. */
static bool has_ended(const FlLibvirtSession *session, const FlLibvirtCall *call)
{
    return session->gone || (!call->silent && (call->code == VIR_ERR_NO_DOMAIN ||
                                               call->code == VIR_ERR_OPERATION_INVALID));
}

/* Whether BACKUP belongs to this session or, before the session has one, to any fleecefs
 * session. */
static bool is_ours(const FlLibvirtSession *session, const FlDomainBackup *backup)
{
    return session->socket != NULL ? g_strcmp0(session->socket, backup->socket) == 0
                                   : fl_libvirt_is_our_socket(backup->socket);
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

/* libvirt has no statistics yet for a backup that is just starting. */
static bool is_beginning(FlLibvirtCall *call)
{
    fl_libvirt_call_note_error(call);
    call->value = FL_LIBVIRT_PROGRESS_CHANGING;
    return call->code == VIR_ERR_INTERNAL_ERROR && virDomainIsActive(call->domain) == 1;
}

/*
 * Whether PROOF and FOUND describe the same job, which still exists after PROOF was made.
 *
 * A domain has one job at a time. A job that began before PROOF->since and still exists is the one
 * that existed then, so its description need not be queried again. The start of a job is computed
 * from its age, for which libvirt uses the host's realtime clock; a value that disagrees with the
 * previous one is rejected. Another job could be mistaken for ours only if, within PROOF_LIFE, ours
 * ended, another backup with the same totals began, and the clock was set forward by the difference
 * of their ages to within CLOCK_SLACK.
 */
static bool is_proven(const FlLibvirtProof *proof, const FlLibvirtProof *found)
{
    return proof->since != 0 && found->since < proof->since + PROOF_LIFE &&
           found->last < proof->since - CLOCK_SLACK && found->first <= proof->last + CLOCK_SLACK &&
           found->last >= proof->first - CLOCK_SLACK;
}

/* CALL->value gets a FlLibvirtProgress; CALL->string the description of a running backup, or NULL
 * if CALL->proof is of that backup. That saves a libvirt call, that is, a round trip. */
static bool ask_progress(FlLibvirtCall *call)
{
    virTypedParameterPtr params = NULL;
    unsigned long long total = 0, age = 0;
    int type = VIR_DOMAIN_JOB_NONE, n = 0, operation = VIR_DOMAIN_JOB_OPERATION_UNKNOWN;
    gint64 asked = g_get_monotonic_time();
    bool ok = virDomainGetJobStats(call->domain, &type, &params, &n, 0) == 0;

    if (!ok)
        return is_beginning(call);
    virTypedParamsGetInt(params, n, VIR_DOMAIN_JOB_OPERATION, &operation);
    if (virTypedParamsGetULLong(params, n, VIR_DOMAIN_JOB_DISK_TEMP_TOTAL, &total) != 1)
        virTypedParamsGetULLong(params, n, VIR_DOMAIN_JOB_DISK_TOTAL, &total);
    virTypedParamsGetULLong(params, n, VIR_DOMAIN_JOB_TIME_ELAPSED, &age);
    virTypedParamsFree(params, n);
    call->found.since = g_get_monotonic_time();
    call->found.first = asked - (gint64)MIN(age, G_MAXINT32) * G_TIME_SPAN_MILLISECOND;
    call->found.last = call->found.first + (call->found.since - asked);
    if (type == VIR_DOMAIN_JOB_NONE)
        call->value = FL_LIBVIRT_PROGRESS_NONE;
    else if (operation != VIR_DOMAIN_JOB_OPERATION_BACKUP)
        call->value = FL_LIBVIRT_PROGRESS_OTHER;
    else
        call->value = total > 0 ? FL_LIBVIRT_PROGRESS_STEADY : FL_LIBVIRT_PROGRESS_CHANGING;
    call->total = total;
    return call->value != FL_LIBVIRT_PROGRESS_STEADY || is_proven(&call->proof, &call->found) ||
           ask_backup(call) || virGetLastErrorCode() == VIR_ERR_NO_DOMAIN_BACKUP;
}

FlLibvirtProgress fl_libvirt_progress(FlLibvirtSession *session, uint64_t *total, GError **error)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_progress, NULL, NULL);
    g_autoptr(FlDomainBackup) backup = NULL;
    bool ours;

    call->proof = session->proof;
    if (!fl_libvirt_ask(session, call)) {
        if (has_ended(session, call))
            return FL_LIBVIRT_PROGRESS_NONE;
        fl_libvirt_fail(error, call, "backup job");
        return FL_LIBVIRT_PROGRESS_UNKNOWN;
    }
    if (call->string != NULL)
        backup = fl_domain_backup_parse(call->string, NULL);
    ours = call->value == FL_LIBVIRT_PROGRESS_STEADY &&
           (backup != NULL ? is_ours(session, backup)
                           : call->string == NULL && is_proven(&call->proof, &call->found));
    if (!ours)
        session->proof = (FlLibvirtProof){0};
    else if (backup != NULL)
        session->proof = call->found;
    *total = ours ? call->total : 0;
    return (FlLibvirtProgress)call->value;
}

/*
 * Waits until a backup is running whose start was cut short because the fleecefs daemon died or
 * lost its connection: ending it earlier, or deleting its checkpoint, crashes libvirtd (seen with
 * 9.0).
 */
static bool settle(FlLibvirtSession *session, GError **error)
{
    gint64 end = g_get_monotonic_time() + CHANGE_TIMEOUT * G_TIME_SPAN_MILLISECOND;
    FlLibvirtProgress progress;
    uint64_t total;

    while ((progress = fl_libvirt_progress(session, &total, error)) ==
           FL_LIBVIRT_PROGRESS_CHANGING) {
        if (g_get_monotonic_time() >= end)
            return fl_fail(error, "libvirt has been starting or ending a backup for too long; when "
                                  "it has finished, run fleecefs --recover");
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
        const char *file = backup->socket != NULL && !backup->tcp ? backup->socket : backup->file;
        return fl_fail(error,
                       "another tool's backup is in progress (mode %s, at %s); let it finish, or "
                       "end it with virsh domjobabort %s",
                       backup->mode, file != NULL ? file : "no local file", session->name);
    }
    progress = fl_libvirt_progress(session, &total, error);
    if (progress != FL_LIBVIRT_PROGRESS_NONE && progress != FL_LIBVIRT_PROGRESS_UNKNOWN)
        fl_fail(error,
                "a libvirt job (such as a migration) is in progress; let it finish; see virsh "
                "domjobinfo %s",
                session->name);
    return progress == FL_LIBVIRT_PROGRESS_NONE;
}

static bool ask_begin(FlLibvirtCall *call)
{
    return virDomainBackupBegin(call->domain, call->text, call->more, call->number) == 0;
}

FlDomainPart *fl_libvirt_parts(const FlLibvirtSession *session, guint *n)
{
    const GPtrArray *disks = session->backup.disks;
    FlDomainPart *parts = g_new0(FlDomainPart, disks->len);

    *n = 0;
    for (guint i = 0; i < disks->len; i++) {
        const FlLibvirtDisk *disk = g_ptr_array_index(disks, i);

        if (disk->disk.image != NULL)
            continue;
        parts[(*n)++] = (FlDomainPart){
            .target = disk->disk.name,
            .checkpoint = disk->checkpoint,
            .export_name = disk->disk.export_name,
            .bitmap = fl_snapshot_series(session->backup.options),
            .point = disk->point,
            .size = disk->disk.size,
            .disk_id = disk->disk.disk_id,
            .keys = disk->keys,
            .fingerprint = disk->fingerprint,
        };
    }
    return parts;
}

/* Returns the call that starts the job with all disks as planned. */
static FlLibvirtCall *begin(const FlLibvirtSession *session)
{
    guint n;
    g_autofree FlDomainPart *parts = fl_libvirt_parts(session, &n);
    const FlDomainServer server = {
        .socket = session->socket,
        .address = session->address,
        .port = session->listen.port,
        .secret = session->secret,
    };
    g_autofree char *backup = fl_domain_backup_xml(parts, n, &server);
    g_autofree char *checkpoint = NULL;
    FlLibvirtCall *call;

    if (session->point != NULL)
        checkpoint = fl_checkpoint_xml(parts, n, session->point);
    call = fl_libvirt_call_new(ask_begin, backup, checkpoint);
    call->number = session->secret != NULL ? VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL : 0;
    return call;
}

/* After libvirt reported a missing or broken bitmap: switches the disks named in MESSAGE to full,
 * or all disks if it names none. Returns false if all of them were full already. */
static bool drop_bases(const GPtrArray *disks, const char *message)
{
    bool dropped = false;

    for (int pass = 0; pass < 2 && !dropped; pass++) {
        for (guint i = 0; i < disks->len; i++) {
            FlLibvirtDisk *disk = g_ptr_array_index(disks, i);
            g_autofree char *quoted = g_strdup_printf("'%s'", disk->disk.name);

            if (disk->checkpoint == NULL || (pass == 0 && strstr(message, quoted) == NULL))
                continue;
            fl_libvirt_make_full(disk,
                                 g_strdup_printf("restore point %s is lost, because the VM did not "
                                                 "shut down cleanly or its image was replaced (%s)",
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

/* Matches QEMU's message, which libvirt passes on. */
static bool is_port_taken(const FlLibvirtSession *session, const FlLibvirtCall *call)
{
    return session->address != NULL && call->message != NULL &&
           strstr(call->message, "Address already in use") != NULL;
}

/* Errors about the job's files contain their path. */
static bool fail_to_begin(const FlLibvirtSession *session, const FlLibvirtCall *call,
                          GError **error)
{
    if (call->message != NULL && strstr(call->message, session->scratch) != NULL)
        return fl_libvirt_fail(error, call,
                               "cannot take the snapshot (the VM's process must be able to write "
                               "to %s; choose another with -o scratch=DIR%s)",
                               session->scratch,
                               strstr(call->message, "Permission denied") != NULL ? CONFINED : "");
    if (session->address != NULL)
        return fl_libvirt_fail(error, call,
                               "cannot take the snapshot (libvirt's qemu.conf there must set "
                               "backup_tls_x509_cert_dir; the NBD server was to listen at %s port "
                               "%u, see -o nbd_listen=)",
                               session->address, session->listen.port);
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
        if (!call->silent && is_port_taken(session, call) && fl_listen_next(&session->listen))
            continue;
        if (call->silent || call->code != VIR_ERR_CHECKPOINT_INCONSISTENT ||
            !drop_bases(backup->disks, call->message))
            return fail_to_begin(session, call, error);
    }
}

/* Reads back what libvirt made of the request. */
static bool read_back(FlSnapshot *backup, const FlDomainBackup *job, GError **error)
{
    for (guint i = 0; i < backup->disks->len; i++) {
        FlSnapshotDisk *disk = g_ptr_array_index(backup->disks, i);
        const FlDomainExport *export = NULL;

        if (disk->image != NULL)
            continue;
        for (guint k = 0; k < job->disks->len; k++) {
            const FlDomainExport *candidate = g_ptr_array_index(job->disks, k);
            if (g_str_equal(candidate->target, disk->name))
                export = candidate;
        }
        if (export == NULL || (disk->bitmaps->len > 0 && export->bitmap == NULL))
            return fl_fail(error, "disk %s: libvirt did not export it as requested", disk->name);
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

bool fl_libvirt_export(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    g_autoptr(FlDomainBackup) job = NULL;

    if (!fl_journal_set_second(session->backup.journal, backup->time.tv_sec, error))
        return false;
    if (!session->running)
        return session->remote == NULL || fl_libvirt_serve_images(session, error);
    if (session->secret != NULL && !fl_libvirt_remove_secret(session, session->socket, error))
        return false;
    if (fl_libvirt_job(session, &job, error) == FL_LIBVIRT_JOB_UNKNOWN ||
        fl_libvirt_progress(session, &session->total, error) == FL_LIBVIRT_PROGRESS_UNKNOWN)
        return false;
    if (job == NULL || session->total == 0)
        return fl_fail(error, "the backup job has already ended");
    if (!read_back(backup, job, error))
        return false;
    if (!fl_libvirt_find_server(session, error))
        return false;
    fl_libvirt_compare(session);
    fl_libvirt_name_disks(backup);
    return true;
}

/* CALL->value gets a FlLibvirtState. */
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

/* Resumes a guest that stopped because the scratch space was full: QEMU retries its write. */
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

/* Ends the job whose NBD server is at SOCKET. */
static bool end_job(FlLibvirtSession *session, const char *socket, unsigned patience,
                    GError **error)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_abort, NULL, NULL);
    gint64 end;
    FlLibvirtJob job;
    bool asked;

    session->backup.refused = !fl_libvirt_clients_have_left(session, socket, patience, error);
    if (session->backup.refused)
        return false;
    /* libvirt refuses this if the job is already ending. */
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

static bool remove_things(FlLibvirtSession *session, const char *socket, GError **error)
{
    return fl_libvirt_remove_files(session, socket, error) &&
           fl_libvirt_remove_secret(session, socket, error);
}

/* Removes what remains of our job, described by FOUND (NULL if there is none), and of what the
 * journal names. */
static bool remove_left(FlLibvirtSession *session, const FlDomainBackup *found, GError **error)
{
    const FlJournalEntry *entry = fl_journal_entry(session->backup.journal);
    const char *noted = entry != NULL ? entry->socket : NULL;

    if (found != NULL && (!end_job(session, found->socket, LEAVE_TIMEOUT, error) ||
                          !remove_things(session, found->socket, error)))
        return false;
    return (found != NULL && g_strcmp0(found->socket, noted) == 0) ||
           remove_things(session, noted, error);
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
    g_prefix_error(error, "cleanup is incomplete; run fleecefs --recover: ");
    return false;
}

bool fl_libvirt_let_go(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;

    fl_libvirt_end_images(session);
    /* libvirt ends the job for all disks or for none, so they are lost together. */
    return fl_libvirt_job(session, NULL, error) != FL_LIBVIRT_JOB_OURS ||
           end_job(session, session->socket, FL_LIBVIRT_LET_GO_MS, error);
}
