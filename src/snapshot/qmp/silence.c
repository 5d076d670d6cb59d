/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An idle QMP connection straight to QEMU shows, without a query, that nothing has changed since
 * the last check. */
#include "snapshot/qmp/fleece.h"

#include <limits.h>
#include <sys/socket.h>
#include <unistd.h>

/* Whether PID runs a QEMU executable: qemu-system-x86_64, qemu-kvm. */
static bool is_qemu(pid_t pid)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/exe", (int)pid);
    g_autofree char *path = g_file_read_link(link, NULL);
    g_autofree char *name = path != NULL ? g_path_get_basename(path) : NULL;

    return name != NULL && g_str_has_prefix(name, "qemu");
}

void fl_fleece_note_peer(FlFleece *session)
{
    struct ucred peer = {0};
    socklen_t size = sizeof peer;

    session->confirmed = false;
    if (getsockopt(fl_qmp_fd(session->qmp), SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
        peer.pid <= 0)
        session->direct = 0;
    /* The sandbox may hide /proc, but a known peer needs no second check. */
    else if (peer.pid != session->direct)
        session->direct = is_qemu(peer.pid) ? peer.pid : 0;
}

void fl_fleece_note_confirmed(FlFleece *session, unsigned seen)
{
    session->confirmed = fl_snapshot_none_lost(&session->backup, NULL);
    session->confirmed_at = seen;
}

int fl_fleece_silent_fd(const FlFleece *session)
{
    bool silent = !session->gone && session->qmp != NULL && session->direct != 0 &&
                  session->confirmed && session->events == session->confirmed_at &&
                  fl_qmp_is_settled(session->qmp);

    return silent ? fl_qmp_fd(session->qmp) : -1;
}
