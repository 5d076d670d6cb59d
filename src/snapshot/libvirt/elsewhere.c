/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images of a VM that is shut off on another host: a storage daemon there serves them.
 *
 * It ends with the ssh connection, and is then started again. Meanwhile the images are not locked,
 * and another program may write to them. So data is confirmed by looking at the files after it has
 * arrived: if one of them has changed since the beginning, all disks are lost.
 */
#include "snapshot/libvirt/session.h"

#include "source/image/there.h"
#include "source/nbd/nbd.h"
#include "util/deadline.h"

/* Seconds that a command to the VM may take, by default. */
#define TIMEOUT 30
/* Timeout of each command to the storage daemon: opening an image may read its bitmaps from slow
 * storage. */
#define QMP_TIMEOUT_MS 60000
/* Milliseconds between attempts to reach the other host. */
#define RETRY_MS 200
/* Limit, in bytes, on what the server may make us remember. */
#define MEMORY (UINT64_C(64) << 20)

static unsigned timeout_of(const FlLibvirtSession *session)
{
    unsigned timeout = session->backup.options->timeout;

    return timeout != 0 ? timeout : TIMEOUT;
}

static bool look(const char *path, bool *device, uint64_t *size, void *opaque, GError **error)
{
    const FlLibvirtSession *session = opaque;
    FlRemoteFile file;

    if (!fl_remote_file(session->remote, path, &file, error))
        return false;
    *device = file.device;
    *size = file.size;
    g_free(file.identity);
    return true;
}

static void make_latest(struct timespec *latest, struct timespec time)
{
    if (time.tv_sec > latest->tv_sec ||
        (time.tv_sec == latest->tv_sec && time.tv_nsec > latest->tv_nsec))
        *latest = time;
}

/* Notes the identity of all files, and the times of the image: the latest of them. A device has
 * none. */
static bool note_files(FlLibvirtSession *session, FlLibvirtDisk *disk, GError **error)
{
    FlImage *image = disk->image;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    disk->identities = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < image->files->len; i++) {
        FlRemoteFile file;

        if (!fl_remote_file(session->remote, image->files->pdata[i], &file, error))
            return false;
        g_ptr_array_add(disk->identities, file.identity);
        if (file.device && i >= image->own)
            continue;
        make_latest(&image->info.mtime, file.device ? now : file.mtime);
        make_latest(&image->info.ctime, file.device ? now : file.ctime);
    }
    return true;
}

static FlImageHost host_of(FlLibvirtSession *session, FlQmp *qmp, FlSource *server)
{
    return (FlImageHost){.qmp = qmp,
                         .server = server,
                         .seconds = timeout_of(session),
                         .look = look,
                         .opaque = session};
}

/* Starts the storage daemon; returns its monitor. */
static FlQmp *start_daemon(FlLibvirtSession *session, GError **error)
{
    const char *path = fl_remote_daemon_start(session->remote, session->folder, error);

    return path != NULL ? fl_qmp_connect(path, QMP_TIMEOUT_MS, error) : NULL;
}

static bool serve_disk(FlLibvirtSession *session, const FlImageHost *host, FlLibvirtDisk *disk,
                       unsigned number, GError **error)
{
    if (disk->disk.image_format == NULL)
        return fl_fail(error, "disk %s: the domain does not name the format of its image",
                       disk->disk.name);
    disk->image = fl_image_export_there(host, disk->disk.image, disk->disk.image_format,
                                        disk->disk.export_name, number, error);
    if (disk->image != NULL && note_files(session, disk, error)) {
        disk->disk.served = &disk->image->info;
        g_clear_pointer(&disk->disk.image, g_free);
        return true;
    }
    g_prefix_error(error, "disk %s, on %s: ", disk->disk.name, fl_remote_host(session->remote));
    return false;
}

bool fl_libvirt_serve_images(FlLibvirtSession *session, GError **error)
{
    FlSnapshot *backup = &session->backup;
    g_autofree char *socket = fl_libvirt_choose_socket(session);
    g_autoptr(FlBudget) budget = fl_budget_new(MEMORY);
    g_autoptr(FlSource) server = NULL;
    g_autoptr(FlQmp) qmp = NULL;
    FlImageHost host;

    session->folder = g_path_get_dirname(socket);
    qmp = start_daemon(session, error);
    if (qmp == NULL || !fl_remote_daemon_ready(session->remote, session->folder, error))
        return false;
    backup->server_uri = fl_remote_daemon_uri(session->remote);
    server = fl_source_nbd_new_uri(backup->server_uri, budget);
    host = host_of(session, qmp, server);
    for (guint i = 0; i < backup->disks->len; i++) {
        if (!serve_disk(session, &host, backup->disks->pdata[i], i, error))
            return false;
    }
    session->serving = true;
    return true;
}

/* Lets the daemon run on; KEPT: whether it does. Marks all disks lost if a file has changed. */
static bool keep(FlLibvirtSession *session, bool *kept, GError **error)
{
    FlSnapshot *backup = &session->backup;
    g_autoptr(GPtrArray) paths = g_ptr_array_new(), before = g_ptr_array_new();
    g_auto(GStrv) now = NULL;

    for (guint i = 0; i < backup->disks->len; i++) {
        const FlLibvirtDisk *disk = backup->disks->pdata[i];

        g_ptr_array_extend(paths, disk->image->files, NULL, NULL);
        g_ptr_array_extend(before, disk->identities, NULL, NULL);
    }
    now = fl_remote_daemon_keep(session->remote, session->folder, paths, kept, error);
    if (now == NULL)
        return false;
    for (guint i = 0; i < paths->len; i++) {
        g_autofree char *why = NULL;

        if (g_str_equal(now[i], before->pdata[i]))
            continue;
        g_debug("%s: was '%s', is '%s'", (const char *)paths->pdata[i],
                (const char *)before->pdata[i], now[i]);
        why = g_strdup_printf("%s on %s has changed", (const char *)paths->pdata[i],
                              fl_remote_host(session->remote));
        fl_snapshot_lose_all(backup, why);
    }
    return true;
}

/* Serves the images again. Errors are transient. */
static bool serve_again(FlLibvirtSession *session, GError **error)
{
    FlSnapshot *backup = &session->backup;
    g_autoptr(FlQmp) qmp = start_daemon(session, error);
    FlImageHost host = host_of(session, qmp, NULL);
    bool kept;

    session->serving = false;
    for (guint i = 0; i < backup->disks->len && qmp != NULL; i++) {
        const FlLibvirtDisk *disk = backup->disks->pdata[i];
        g_autoptr(GError) failure = NULL;
        g_autoptr(FlImage) image = NULL;

        /* Nothing of a changed image may be served. */
        if (!keep(session, &kept, error) || !fl_snapshot_none_lost(backup, NULL))
            return false;
        image = fl_image_export_there(&host, disk->image->path, disk->image->info.format,
                                      disk->disk.export_name, i, &failure);
        if (image != NULL)
            continue;
        if (!keep(session, &kept, error) || !kept) {
            g_clear_error(error);
            g_propagate_error(error, g_steal_pointer(&failure));
            return false;
        }
        fl_snapshot_lose_all(backup, failure->message);
    }
    /* Clients would take a missing export for a changed server. */
    session->serving = qmp != NULL && keep(session, &kept, error) &&
                       fl_snapshot_none_lost(backup, NULL) &&
                       fl_remote_daemon_ready(session->remote, session->folder, error);
    return session->serving;
}

bool fl_libvirt_keep_images(FlLibvirtSession *session, bool wait, GError **error)
{
    gint64 end = fl_deadline_in(wait ? timeout_of(session) : 0);
    g_autoptr(GError) failure = NULL;
    bool kept = true;

    while (!keep(session, &kept, &failure)) {
        if (fl_deadline_left(end) == 0) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return false;
        }
        g_clear_error(&failure);
        g_usleep(RETRY_MS * G_TIME_SPAN_MILLISECOND);
    }
    if ((kept && session->serving) || !fl_snapshot_none_lost(&session->backup, NULL))
        return true;
    if (serve_again(session, &failure))
        g_info("%s: the storage daemon on %s was started again", session->backup.options->source,
               fl_remote_host(session->remote));
    else if (failure != NULL)
        g_info("%s: cannot start the storage daemon again: %s", session->backup.options->source,
               failure->message);
    return true;
}

void fl_libvirt_end_images(FlLibvirtSession *session)
{
    if (session->folder == NULL)
        return;
    if (!fl_remote_daemon_end(session->remote, session->folder))
        g_info("%s: the storage daemon on %s does not answer; it ends with the connection",
               session->backup.options->source, fl_remote_host(session->remote));
    g_clear_pointer(&session->folder, g_free);
}
