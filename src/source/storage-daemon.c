/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/storage-daemon.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

/* Timeout of each QMP command: opening an image may read its bitmaps from slow storage. */
#define QMP_TIMEOUT_MS 60000
/* Grace period for a daemon that no longer answers to exit. */
#define FAILED_MS 100

void fl_storage_daemon_explain(FlServer *server, GError *failure, GError **error)
{
    if (fl_server_check(server, FAILED_MS, error))
        g_propagate_error(error, failure);
    else
        g_error_free(failure);
}

FlServer *fl_storage_daemon_start(const FlJail *jail, FlQmp **qmp, GError **error)
{
    static const char *const argv[] = {FL_STORAGE_DAEMON,
                                       "--chardev",
                                       "socket,id=qmp,fd=4",
                                       "--monitor",
                                       "chardev=qmp",
                                       "--nbd-server",
                                       "addr.type=fd,addr.str=3,max-connections=1000",
                                       NULL};
    /* The daemon only reads, so it needs no orderly shutdown. */
    FlServerSpec spec = {.argv = argv, .death_signal = SIGKILL, .jail = jail};
    g_autoptr(FlServer) server = NULL;
    GError *failure = NULL;
    int monitor[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, monitor) < 0) {
        fl_fail(error, "cannot create a socket for %s: %s", argv[0], g_strerror(errno));
        return NULL;
    }
    spec.extra_fd = monitor[1];
    server = fl_server_new(&spec, error);
    close(monitor[1]);
    if (server == NULL) {
        close(monitor[0]);
        return NULL;
    }
    *qmp = fl_qmp_new_fd(monitor[0], argv[0], QMP_TIMEOUT_MS, &failure);
    if (*qmp != NULL)
        return g_steal_pointer(&server);
    fl_storage_daemon_explain(server, failure, error);
    return NULL;
}
