/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What may go wrong with a snapshot while it is read. */
#include "snapshot/libvirt/session.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>

/* Milliseconds between looks at the room for scratch and at the guest. */
#define WATCH_INTERVAL 250
/* And at the room on another host. */
#define REMOTE_INTERVAL 500

/*
 * Loses all disks if the job is not whole any more: libvirt ends it for all of them.
 *
 * Of a job that ends libvirt has the description until all is over, which is after the server has
 * sent what the guest wrote meanwhile; but from the first step on less than all disks are in its
 * numbers. That the description is ours after the numbers were, tells whose they are.
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
    if (session->running && !look(session, error))
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
    if (session->remote != NULL) {
        g_autofree char *directory = g_path_get_dirname(session->socket);
        fl_remote_look(session->remote, session->scratch, directory);
    }
    fl_snapshot_measure(&session->backup);
    if (find_room(session, &room) && room <= session->reserve)
        fl_snapshot_lose_all(&session->backup, "the scratch directory is full: the guest has "
                                               "overwritten too much");
    else if (fl_libvirt_state(session) == FL_LIBVIRT_STOPPED_BY_ERROR)
        fl_snapshot_lose_all(
            &session->backup,
            "there was no space for a write of the guest: the scratch directory, or "
            "what the disk itself is on, is full");
}

bool fl_libvirt_look(FlSnapshot *backup)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;

    if (!session->running)
        return true;
    /* A reader may keep the session busy with questions all the time. */
    watch_room(session);
    return look(session, NULL);
}

/* libvirt's events need a loop of libvirt's, which would be the daemon's main one; a look costs
 * about a millisecond, and the NBD server tells of its end by closing connections. */
void fl_libvirt_wait(FlSnapshot *backup, int wake)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;

    while (!fl_snapshot_newly_lost(backup)) {
        struct pollfd fd = {.fd = wake, .events = POLLIN};
        bool over = !session->running || !fl_snapshot_none_lost(backup, NULL);

        if ((poll(&fd, 1, over ? -1 : WATCH_INTERVAL) < 0 && errno != EINTR) || fd.revents != 0)
            return;
        /* A signal ends a wait that has no end; there is nothing to look at then. */
        if (!over && look(session, NULL))
            watch_room(session);
    }
}

void fl_libvirt_scratch_use(const FlSnapshot *backup, const FlSnapshotDisk *disk, uint64_t *used,
                            uint64_t *limit)
{
    const FlLibvirtSession *session = (const FlLibvirtSession *)backup;
    g_autofree char *directory =
        session->socket != NULL ? g_path_get_dirname(session->socket) : NULL;
    g_autofree char *file =
        directory != NULL ? g_build_filename(directory, disk->name, NULL) : NULL;
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
