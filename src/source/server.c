/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/server.h"

#include "source/image/image.h"
#include "source/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Each QMP command's bound: to open an image may mean to read its bitmaps from slow storage. */
#define QMP_TIMEOUT_MS 60000
#define CHECK_MS       500
#define FAILED_MS      100
#define BACKLOG        128

struct FlServer {
    FlProcess *process;
    int socket;     /* O_PATH */
    FlImage *image; /* NULL for a command */
};

static char *make_private_folder(GError **error)
{
    const char *parents[] = {g_getenv("XDG_RUNTIME_DIR"), g_get_tmp_dir()};
    g_autofree char *folder = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(parents); i++) {
        if (parents[i] == NULL)
            continue;
        g_free(folder);
        folder = g_build_filename(parents[i], "fleecefs-XXXXXX", NULL);
        if (g_mkdtemp(folder) != NULL)
            return g_steal_pointer(&folder);
    }
    fl_fail(error, "cannot make a folder for a socket in %s: %s", g_get_tmp_dir(),
            g_strerror(errno));
    return NULL;
}

/* Binds LISTENER to a name in FOLDER and removes the name. Returns a descriptor (O_PATH) of it. */
static int bind_and_unlink(int listener, const char *folder)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = -1;

    if (folder_fd < 0)
        return -1;
    /* Through the descriptor, since sun_path is too short for some folders. */
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/nbd", folder_fd);
    if (bind(listener, (const struct sockaddr *)&address, sizeof address) == 0) {
        fd = openat(folder_fd, "nbd", O_PATH | O_CLOEXEC);
        unlinkat(folder_fd, "nbd", 0);
    }
    close(folder_fd);
    return fd;
}

/*
 * A listening socket, and in PATH_FD its name, which nobody else could see or can find: the folder
 * was closed to others while the name was there.
 */
static int listen_privately(int *path_fd, GError **error)
{
    g_autofree char *folder = make_private_folder(error);
    int listener, fd;

    if (folder == NULL)
        return -1;
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fd = bind_and_unlink(listener, folder);
    if (fd < 0 || listen(listener, BACKLOG) < 0) {
        fl_fail(error, "cannot make a socket in %s: %s", folder, g_strerror(errno));
        if (fd >= 0)
            close(fd);
        if (listener >= 0)
            close(listener);
        listener = -1;
    }
    rmdir(folder);
    if (listener >= 0)
        *path_fd = fd;
    return listener;
}

/* Starts ARGV with the listening socket as descriptor 3 and EXTRA_FD, unless -1, as descriptor 4.
 */
static FlServer *start_server(const char *const *argv, int extra_fd, bool activation,
                              const FlJail *jail, int death_signal, GError **error)
{
    g_autoptr(FlServer) server = g_new0(FlServer, 1);
    int fds[] = {-1, extra_fd};
    FlProcessSpec spec = {.argv = argv,
                          .fds = fds,
                          .n_fds = extra_fd >= 0 ? 2 : 1,
                          .activation = activation,
                          .death_signal = death_signal,
                          .jail = jail,
                          /* A command is the user's own, who may have written sudo. */
                          .no_new_privs = !activation};

    server->socket = -1;
    fds[0] = listen_privately(&server->socket, error);
    if (fds[0] < 0)
        return NULL;
    server->process = fl_process_start(&spec, error);
    /* The server alone listens: when it ends, whoever connects is told at once. */
    close(fds[0]);
    return server->process != NULL ? g_steal_pointer(&server) : NULL;
}

FlServer *fl_server_new_command(const char *const *argv, GError **error)
{
    if (argv[0] == NULL) {
        fl_fail_usage(error, "[ ] is empty: a command is needed between the brackets");
        return NULL;
    }
    /* Not SIGKILL: a server may have temporary files of its own to remove. */
    return start_server(argv, -1, true, NULL, SIGTERM, error);
}

/* Speaks with the storage daemon behind FD (taken over) until it serves the image. */
static bool serve_image(FlServer *server, int fd, GError **error)
{
    g_autoptr(FlQmp) qmp = fl_qmp_new_fd(fd, "qemu-storage-daemon", QMP_TIMEOUT_MS, error);

    return qmp != NULL && fl_image_export(server->image, qmp, error);
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

FlServer *fl_server_new_image(const char *path, const char *format, GError **error)
{
    static const char *const argv[] = {"qemu-storage-daemon",
                                       "--chardev",
                                       "socket,id=qmp,fd=4",
                                       "--monitor",
                                       "chardev=qmp",
                                       "--nbd-server",
                                       "addr.type=fd,addr.str=3,max-connections=1000",
                                       NULL};
    g_autoptr(FlImage) image = NULL;
    g_autoptr(FlServer) server = NULL;
    g_autoptr(FlJail) jail = NULL;
    g_autoptr(GError) failure = NULL;
    int monitor[2];

    if (!check_installed(path, error) || (image = fl_image_probe(path, format, error)) == NULL)
        return NULL;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, monitor) < 0) {
        fl_fail(error, "cannot make a socket for %s: %s", argv[0], g_strerror(errno));
        return NULL;
    }
    jail = fl_image_jail(image, argv[0]);
    /* It has nothing to put in order, so let nothing hold up its end. */
    server = start_server(argv, monitor[1], false, jail, SIGKILL, error);
    close(monitor[1]);
    if (server == NULL) {
        close(monitor[0]);
        return NULL;
    }
    server->image = g_steal_pointer(&image);
    if (serve_image(server, monitor[0], &failure))
        return g_steal_pointer(&server);

    /* If it ended, why says more than that it no longer answers. */
    if (fl_process_check(server->process, FAILED_MS, error))
        g_propagate_error(error, g_steal_pointer(&failure));
    return NULL;
}

void fl_server_free(FlServer *server)
{
    if (server == NULL)
        return;
    fl_process_free(server->process);
    fl_image_free(server->image);
    if (server->socket >= 0)
        close(server->socket);
    g_free(server);
}

int fl_server_socket(const FlServer *server)
{
    return server->socket;
}

int fl_server_pid(const FlServer *server)
{
    return fl_process_pid(server->process);
}

void fl_server_allow(const FlServer *server, FlSandbox *sandbox)
{
    fl_sandbox_allow_signals(sandbox, fl_process_pid(server->process));
    if (server->image != NULL && server->image->open != NULL) {
        g_autofree char *what = g_strdup_printf("QEMU reads %s without a jail: %s",
                                                server->image->path, server->image->open);

        fl_sandbox_miss(sandbox, what);
    }
}

const FlImageInfo *fl_server_image(const FlServer *server)
{
    return server->image != NULL ? &server->image->info : NULL;
}

bool fl_server_check(FlServer *server, GError **error)
{
    return fl_process_check(server->process, CHECK_MS, error);
}
