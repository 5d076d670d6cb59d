/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The backup job: libvirt starts it with its NBD server and scratch files, and ends all of it
 * together.
 *
 * Socket and scratch files are made by the VM's process, in a directory that we make for it, which
 * nobody else may enter. Its name, in the job's XML, tells that the job is ours.
 */
#include "backup/libvirt-session.h"

#include "backup/point.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <libvirt/virterror.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PREFIX "fleecefs-"
/* Milliseconds: for a job to end; between looks at it, then and while the snapshot is read. */
#define END_TIMEOUT    10000
#define END_INTERVAL   20
#define WATCH_INTERVAL 1000

/* Whether SOCKET is where a session of ours has one. */
static bool is_our_socket(const char *socket)
{
    g_autofree char *directory = socket != NULL ? g_path_get_dirname(socket) : NULL;
    g_autofree char *name = directory != NULL ? g_path_get_basename(directory) : NULL;

    return name != NULL && g_str_has_prefix(name, PREFIX) && g_str_has_suffix(socket, "/nbd");
}

FlLibvirtJob fl_libvirt_job(FlLibvirtSession *session, unsigned patience, FlDomainBackup **backup,
                            GError **error)
{
    g_autoptr(FlDomainBackup) found = NULL;
    bool ours;
    char *xml;
    int code;

    do
        xml = virDomainBackupGetXMLDesc(session->domain, 0);
    while (xml == NULL && fl_libvirt_again(session, patience));
    if (xml == NULL) {
        code = virGetLastErrorCode();
        if (session->gone || code == VIR_ERR_NO_DOMAIN_BACKUP || code == VIR_ERR_NO_DOMAIN ||
            code == VIR_ERR_OPERATION_INVALID)
            return FL_LIBVIRT_JOB_NONE;
        fl_libvirt_fail(error, "backup job");
        return FL_LIBVIRT_JOB_UNKNOWN;
    }
    found = fl_domain_backup_parse(xml, error);
    free(xml);
    if (found == NULL)
        return FL_LIBVIRT_JOB_UNKNOWN;
    ours = session->socket != NULL ? g_strcmp0(session->socket, found->socket) == 0
                                   : is_our_socket(found->socket);
    if (backup != NULL)
        *backup = g_steal_pointer(&found);
    return ours ? FL_LIBVIRT_JOB_OURS : FL_LIBVIRT_JOB_OTHER;
}

bool fl_libvirt_check_idle(FlLibvirtSession *session, GError **error)
{
    g_autoptr(FlDomainBackup) backup = NULL;
    FlLibvirtJob job = fl_libvirt_job(session, fl_libvirt_patience(session), &backup, error);
    virDomainJobInfo info;

    if (job == FL_LIBVIRT_JOB_UNKNOWN)
        return false;
    if (job != FL_LIBVIRT_JOB_NONE) {
        const char *file = backup->socket != NULL ? backup->socket : backup->file;
        return fl_fail(error,
                       "another tool's backup is in progress (mode %s, at %s); let it finish, or "
                       "end it with: virsh domjobabort %s",
                       backup->mode, file != NULL ? file : "no local file", session->name);
    }
    if (virDomainGetJobInfo(session->domain, &info) == 0 && info.type != VIR_DOMAIN_JOB_NONE)
        return fl_fail(error,
                       "a job of libvirt (like a migration) is in progress; let it finish, "
                       "see virsh domjobinfo %s",
                       session->name);
    return true;
}

char *fl_libvirt_choose_socket(const FlLibvirtSession *session)
{
    return g_strdup_printf("%s/" PREFIX "%08x%08x/nbd", session->scratch, g_random_int(),
                           g_random_int());
}

bool fl_libvirt_serve(FlLibvirtSession *session, GError **error)
{
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
    if (g_mkdir(directory, 0700) < 0 ||
        (geteuid() == 0 && domain->user >= 0 &&
         chown(directory, (uid_t)domain->user, (gid_t)domain->group) < 0))
        return fl_fail(error, "scratch directory %s: %s; -o scratch=DIR names another",
                       session->scratch, g_strerror(errno));
    return true;
}

/* Starts the job with all disks as they are planned; sets libvirt's last error if it fails. */
static bool begin(FlLibvirtSession *session)
{
    const GPtrArray *disks = session->backup.disks;
    g_autofree FlDomainPart *parts = g_new0(FlDomainPart, disks->len);
    g_autofree char *directory = g_path_get_dirname(session->socket);
    g_autofree char *backup = NULL;
    g_autofree char *checkpoint = NULL;

    for (guint i = 0; i < disks->len; i++) {
        const FlLibvirtDisk *disk = g_ptr_array_index(disks, i);
        parts[i] = (FlDomainPart){
            .target = disk->disk.name,
            .checkpoint = disk->checkpoint,
            .export_name = disk->disk.export_name,
            .bitmap = fl_backup_series(session->backup.options),
            .point = disk->point,
            .size = disk->disk.size,
        };
    }
    backup = fl_domain_backup_xml(parts, disks->len, session->socket, directory);
    if (session->point != NULL)
        checkpoint = fl_checkpoint_xml(parts, disks->len, session->point);
    return virDomainBackupBegin(session->domain, backup, checkpoint, 0) == 0;
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

bool fl_libvirt_snapshot(FlLibvirtSession *session, GError **error)
{
    FlBackup *backup = &session->backup;
    gint64 second = fl_backup_set_time(backup, session->journal);
    g_autofree char *id = fl_point_id(second, 0);

    if (!session->running)
        return true;
    for (guint i = 0; i < backup->disks->len; i++) {
        FlLibvirtDisk *disk = g_ptr_array_index(backup->disks, i);
        if (!disk->point)
            continue;
        disk->disk.restore_point = g_strdup(id);
        if (session->point == NULL)
            session->point = fl_point_bitmap(fl_backup_series(backup->options), id);
    }
    while (!begin(session)) {
        if (virGetLastErrorCode() != VIR_ERR_CHECKPOINT_INCONSISTENT ||
            !drop_bases(backup->disks, virGetLastErrorMessage()))
            return fl_libvirt_fail(error,
                                   "cannot take the snapshot (the VM's process must be able to "
                                   "write in %s; -o scratch=DIR names another)",
                                   session->scratch);
    }
    return true;
}

/* What libvirt says that it made of our wishes. */
static bool read_back(FlBackup *backup, const FlDomainBackup *job, GError **error)
{
    for (guint i = 0; i < backup->disks->len; i++) {
        FlBackupDisk *disk = g_ptr_array_index(backup->disks, i);
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
            FlBackupBitmap *bitmap = g_ptr_array_index(disk->bitmaps, 0);
            g_free(bitmap->context);
            bitmap->context = g_strconcat("qemu:dirty-bitmap:", export->bitmap, NULL);
        }
    }
    return true;
}

bool fl_libvirt_export(FlLibvirtSession *session, GError **error)
{
    FlBackup *backup = &session->backup;
    g_autoptr(FlDomainBackup) job = NULL;

    if (!fl_journal_set_second(session->journal, backup->time.tv_sec, error))
        return false;
    if (!session->running)
        return true;
    switch (fl_libvirt_job(session, fl_libvirt_patience(session), &job, error)) {
    case FL_LIBVIRT_JOB_OURS:
        break;
    case FL_LIBVIRT_JOB_UNKNOWN:
        return false;
    default:
        return fl_fail(error, "the backup job has ended already");
    }
    if (!read_back(backup, job, error))
        return false;
    backup->socket = open(session->socket, O_PATH | O_CLOEXEC);
    return backup->socket >= 0 || fl_fail(error, "%s: %s", session->socket, g_strerror(errno));
}

/* Loses all disks if the job is not there any more. */
static bool look(FlLibvirtSession *session, unsigned patience, GError **error)
{
    FlLibvirtJob job = fl_libvirt_job(session, patience, NULL, error);

    if (job == FL_LIBVIRT_JOB_UNKNOWN)
        return false;
    if (job != FL_LIBVIRT_JOB_OURS)
        fl_backup_lose_all(&session->backup, fl_libvirt_active(session, NULL) == 0
                                                 ? "the VM has ended"
                                                 : "its backup job in libvirt has ended");
    return true;
}

bool fl_libvirt_check_job(FlLibvirtSession *session, GError **error)
{
    if (session->running && !look(session, fl_libvirt_patience(session), error))
        return false;
    return fl_backup_none_lost(&session->backup, error);
}

/* A guest that was stopped because the scratch was full can go on: its write is tried again. */
static bool resume_guest(FlLibvirtSession *session, GError **error)
{
    int state = 0, reason = 0;

    if (virDomainGetState(session->domain, &state, &reason, 0) < 0 || state != VIR_DOMAIN_PAUSED ||
        reason != VIR_DOMAIN_PAUSED_IOERROR)
        return true;
    fl_backup_report(&session->backup, "the guest goes on, which was stopped for want of space");
    return virDomainResume(session->domain) == 0 || fl_libvirt_fail(error, "guest");
}

static bool end_job(FlLibvirtSession *session, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + END_TIMEOUT * 1000;
    unsigned patience = fl_libvirt_patience(session);
    g_autoptr(GError) failure = NULL;
    FlLibvirtJob job;

    /* It is refused where the job is ending already. */
    if (virDomainAbortJob(session->domain) < 0)
        fl_libvirt_fail(&failure, "backup job");
    while ((job = fl_libvirt_job(session, patience, NULL, error)) == FL_LIBVIRT_JOB_OURS) {
        if (g_get_monotonic_time() >= deadline)
            return fl_fail(error, "the backup job does not end%s%s", failure != NULL ? ": " : "",
                           failure != NULL ? failure->message : "");
        g_usleep(END_INTERVAL * 1000);
    }
    fl_backup_report(&session->backup, "ended a backup job");
    return job != FL_LIBVIRT_JOB_UNKNOWN && resume_guest(session, error);
}

/* The directory of SOCKET, with the scratch files that libvirt did not remove. */
static void remove_directory(const char *socket)
{
    g_autofree char *path = NULL;
    g_autoptr(GDir) directory = NULL;
    const char *name;

    if (!is_our_socket(socket))
        return;
    path = g_path_get_dirname(socket);
    directory = g_dir_open(path, 0, NULL);
    while (directory != NULL && (name = g_dir_read_name(directory)) != NULL) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_unlink(file);
    }
    g_rmdir(path);
}

bool fl_libvirt_sweep(FlLibvirtSession *session, GError **error)
{
    const FlJournalEntry *entry = fl_journal_entry(session->journal);
    g_autoptr(FlDomainBackup) backup = NULL;
    FlLibvirtJob job = fl_libvirt_job(session, fl_libvirt_patience(session), &backup, error);

    if (job == FL_LIBVIRT_JOB_UNKNOWN || (job == FL_LIBVIRT_JOB_OURS && !end_job(session, error))) {
        session->left = true;
        return false;
    }
    if (job == FL_LIBVIRT_JOB_OURS)
        remove_directory(backup->socket);
    if (entry != NULL && entry->socket != NULL)
        remove_directory(entry->socket);
    return true;
}

bool fl_libvirt_let_go(FlLibvirtSession *session, GError **error)
{
    /* libvirt ends the job for all disks or for none, so they are lost together. */
    return fl_libvirt_job(session, 0, NULL, error) != FL_LIBVIRT_JOB_OURS ||
           end_job(session, error);
}

static void watch_room(FlLibvirtSession *session)
{
    uint64_t room = 0;

    if (fl_backup_free_room(session->scratch, &room, NULL) && room <= session->reserve)
        fl_backup_lose_all(&session->backup, "the scratch directory is full: the guest has "
                                             "overwritten too much");
}

/* libvirt's events need a loop of libvirt's, which would be the daemon's main one; a look costs
 * less than a millisecond, and the NBD server tells of its end by closing connections. */
void fl_libvirt_wait(FlBackup *backup, int wake)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;

    while (!fl_backup_newly_lost(backup)) {
        struct pollfd fd = {.fd = wake, .events = POLLIN};
        bool over = !session->running || !fl_backup_none_lost(backup, NULL);

        if ((poll(&fd, 1, over ? -1 : WATCH_INTERVAL) < 0 && errno != EINTR) || fd.revents != 0)
            return;
        /* A signal ends a wait that has no end; there is nothing to look at then. */
        if (over)
            continue;
        look(session, 0, NULL);
        watch_room(session);
    }
}

void fl_libvirt_scratch_use(const FlBackup *backup, const FlBackupDisk *disk, uint64_t *used,
                            uint64_t *limit)
{
    const FlLibvirtSession *session = (const FlLibvirtSession *)backup;
    g_autofree char *directory =
        session->socket != NULL ? g_path_get_dirname(session->socket) : NULL;
    g_autofree char *file =
        directory != NULL ? g_build_filename(directory, disk->name, NULL) : NULL;
    uint64_t room = 0;
    struct stat st;

    *used = file != NULL && stat(file, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
    *limit = *used;
    if (file != NULL && fl_backup_free_room(session->scratch, &room, NULL) &&
        room > session->reserve)
        *limit += room - session->reserve;
}
