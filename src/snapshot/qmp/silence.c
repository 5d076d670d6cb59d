/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is known without a question. */
#include "snapshot/qmp/fleece.h"

#include <limits.h>
#include <sys/socket.h>
#include <unistd.h>

/* Whether PID runs an executable of QEMU's: qemu-system-x86_64, qemu-kvm. */
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

    session->vouched = false;
    if (getsockopt(fl_qmp_fd(session->qmp), SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
        peer.pid <= 0)
        session->direct = 0;
    /* The sandbox may not see /proc, but a process stays what it was. */
    else if (peer.pid != session->direct)
        session->direct = is_qemu(peer.pid) ? peer.pid : 0;
}

void fl_fleece_vouch(FlFleece *session, unsigned seen)
{
    session->vouched = fl_snapshot_none_lost(&session->backup, NULL);
    session->vouched_at = seen;
}

int fl_fleece_silent_fd(const FlFleece *session)
{
    bool silent = !session->gone && session->qmp != NULL && session->direct != 0 &&
                  session->vouched && session->events == session->vouched_at &&
                  fl_qmp_is_settled(session->qmp);

    return silent ? fl_qmp_fd(session->qmp) : -1;
}
