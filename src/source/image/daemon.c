/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/image/daemon.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

/* Each QMP command's bound: to open an image may mean to read its bitmaps from slow storage. */
#define QMP_TIMEOUT_MS 60000
#define FAILED_MS      100

/* Speaks with the storage daemon behind FD (taken over) until it serves the image. */
static bool serve_image(FlImage *image, int fd, GError **error)
{
    g_autoptr(FlQmp) qmp = fl_qmp_new_fd(fd, "qemu-storage-daemon", QMP_TIMEOUT_MS, error);

    return qmp != NULL && fl_image_export(image, qmp, error);
}

static bool check_installed(const char *path, GError **error)
{
    static const char *const programs[] = {"qemu-img", "qemu-storage-daemon"};

    for (size_t i = 0; i < G_N_ELEMENTS(programs); i++) {
        g_autofree char *found = g_find_program_in_path(programs[i]);
        if (found == NULL)
            return fl_fail(error,
                           "cannot open %s: %s is not installed, and QEMU is needed to read image "
                           "files (on Debian: qemu-utils and qemu-system-common)",
                           path, programs[i]);
    }
    return true;
}

FlImageDaemon *fl_image_daemon_new(const char *path, const char *format, GError **error)
{
    static const char *const argv[] = {"qemu-storage-daemon",
                                       "--chardev",
                                       "socket,id=qmp,fd=4",
                                       "--monitor",
                                       "chardev=qmp",
                                       "--nbd-server",
                                       "addr.type=fd,addr.str=3,max-connections=1000",
                                       NULL};
    g_autoptr(FlImageDaemon) daemon = g_new0(FlImageDaemon, 1);
    g_autoptr(FlJail) jail = NULL;
    g_autoptr(GError) failure = NULL;
    /* It has nothing to put in order, so let nothing hold up its end. */
    FlServerSpec spec = {.argv = argv, .death_signal = SIGKILL};
    int monitor[2];

    if (!check_installed(path, error) ||
        (daemon->image = fl_image_probe(path, format, error)) == NULL)
        return NULL;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, monitor) < 0) {
        fl_fail(error, "cannot make a socket for %s: %s", argv[0], g_strerror(errno));
        return NULL;
    }
    jail = fl_image_jail(daemon->image, argv[0]);
    spec.jail = jail;
    spec.extra_fd = monitor[1];
    daemon->server = fl_server_new(&spec, error);
    close(monitor[1]);
    if (daemon->server == NULL) {
        close(monitor[0]);
        return NULL;
    }
    if (serve_image(daemon->image, monitor[0], &failure))
        return g_steal_pointer(&daemon);

    /* If it ended, why says more than that it no longer answers. */
    if (fl_server_check(daemon->server, FAILED_MS, error))
        g_propagate_error(error, g_steal_pointer(&failure));
    return NULL;
}

void fl_image_daemon_free(FlImageDaemon *daemon)
{
    if (daemon == NULL)
        return;
    fl_server_free(daemon->server);
    fl_image_free(daemon->image);
    g_free(daemon);
}
