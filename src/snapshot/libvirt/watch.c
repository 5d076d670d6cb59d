/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Watches for what may go wrong with a snapshot while it is read. */
#include "snapshot/libvirt/session.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>

/* Milliseconds between checks of the scratch space and the guest. */
#define WATCH_INTERVAL 250
/* The same for scratch space on another host. */
#define REMOTE_INTERVAL 500
/* Milliseconds between looks at images on another host. */
#define IMAGES_INTERVAL 1000

/*
 * Marks all disks lost if the job is no longer complete: libvirt ends it for all disks together.
 *
 * While a job ends, libvirt keeps its description until everything is done, which is after the
 * server has served what the guest wrote meanwhile. But from the first step on, its totals cover
 * fewer than all disks. Reading our description after the totals proves that the totals are ours.
 */
static bool look(FlLibvirtSession *session, GError **error)
{
    uint64_t total = 0;

    if (fl_libvirt_progress(session, &total, error) == FL_LIBVIRT_PROGRESS_UNKNOWN)
        return false;
    if (total < session->total)
        fl_snapshot_lose_all(&session->backup, fl_libvirt_active(session, NULL) == 0
                                                   ? "the VM has ended"
                                                   : "its backup job in libvirt has ended");
    return true;
}

bool fl_libvirt_check_job(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;

    if (session->running ? !look(session, error)
                         : session->folder != NULL && !fl_libvirt_keep_images(session, true, error))
        return false;
    return fl_snapshot_none_lost(&session->backup, error) &&
           fl_libvirt_check_clients(session, error);
}

static bool find_room(const FlLibvirtSession *session, uint64_t *room)
{
    if (session->remote == NULL)
        return fl_snapshot_free_room(session->scratch, room, NULL);
    *room = fl_remote_free_room(session->remote);
    return true;
}

static void watch_room(FlLibvirtSession *session)
{
    gint64 now = g_get_monotonic_time();
    uint64_t room = 0;

    if (now < session->next_look)
        return;
    session->next_look = now + (session->remote != NULL ? REMOTE_INTERVAL : WATCH_INTERVAL) *
                                   G_TIME_SPAN_MILLISECOND;
    if (session->remote != NULL && !fl_remote_has_ssh(session->remote)) {
        fl_pool_look(session);
    } else if (session->remote != NULL) {
        g_autofree char *directory = g_path_get_dirname(session->socket);
        fl_remote_look(session->remote, session->scratch, directory);
    }
    fl_snapshot_measure(&session->backup);
    if (find_room(session, &room) && room <= session->reserve)
        fl_snapshot_lose_all(
            &session->backup,
            "the scratch directory is full: the guest has overwritten too many blocks");
    else if (fl_libvirt_state(session) == FL_LIBVIRT_STOPPED_BY_ERROR)
        fl_snapshot_lose_all(&session->backup,
                             "no space for a write of the guest: the scratch directory, or the "
                             "storage of the disk itself, is full");
}

bool fl_libvirt_look(FlSnapshot *backup)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;

    return session->running
               ? look(session, NULL)
               : session->folder == NULL || fl_libvirt_keep_images(session, true, NULL);
}

/* libvirt's events need a libvirt event loop, which would become the daemon's main loop. A check
 * takes about a millisecond, and the NBD server closes connections when it ends. */
void fl_libvirt_wait(FlSnapshot *backup, int wake)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;

    /* A reader may keep the session busy with requests all the time: this runs between two of them,
     * when no request is waiting. */
    if (session->running && fl_snapshot_none_lost(backup, NULL))
        watch_room(session);
    while (!fl_snapshot_newly_lost(backup)) {
        struct pollfd fd = {.fd = wake, .events = POLLIN};
        bool over =
            (!session->running && session->folder == NULL) || !fl_snapshot_none_lost(backup, NULL);
        int interval = session->running ? WATCH_INTERVAL : IMAGES_INTERVAL;

        if ((poll(&fd, 1, over ? -1 : interval) < 0 && errno != EINTR) || fd.revents != 0)
            return;
        /* A signal ends a wait without timeout; then there is nothing to check. */
        if (!over && !session->running)
            fl_libvirt_keep_images(session, false, NULL);
        else if (!over && look(session, NULL))
            watch_room(session);
    }
}

void fl_libvirt_scratch_use(const FlSnapshot *backup, const FlSnapshotDisk *disk, uint64_t *used,
                            uint64_t *limit)
{
    const FlLibvirtSession *session = (const FlLibvirtSession *)backup;
    g_autofree char *file =
        session->socket != NULL ? fl_domain_scratch(session->socket, disk->name) : NULL;
    uint64_t room = 0;
    struct stat st;

    if (session->remote != NULL)
        *used = fl_remote_used(session->remote, disk->name);
    else
        *used = file != NULL && stat(file, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
    *limit = *used;
    if (file != NULL && find_room(session, &room) && room > session->reserve)
        *limit += room - session->reserve;
}
