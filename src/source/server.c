/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/server.h"

#include "source/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128

struct FlServer {
    FlProcess *process;
    int socket; /* O_PATH */
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
    fl_fail(error, "cannot create a folder for a socket in %s: %s", g_get_tmp_dir(),
            g_strerror(errno));
    return NULL;
}

/* Binds LISTENER to a name in FOLDER and unlinks the name. Returns an O_PATH descriptor of it. */
static int bind_and_unlink(int listener, const char *folder)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = -1;

    if (folder_fd < 0)
        return -1;
    /* Through /proc/self/fd, since sun_path is too short for some folders. */
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/nbd", folder_fd);
    if (bind(listener, (const struct sockaddr *)&address, sizeof address) == 0) {
        fd = openat(folder_fd, "nbd", O_PATH | O_CLOEXEC);
        unlinkat(folder_fd, "nbd", 0);
    }
    close(folder_fd);
    return fd;
}

/* Returns a listening socket, and in PATH_FD a descriptor of its name. Nobody else could see the
 * name or can find it: it existed only in a folder closed to others. */
static int listen_privately(int *path_fd, GError **error)
{
    g_autofree char *folder = make_private_folder(error);
    int listener, fd;

    if (folder == NULL)
        return -1;
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fd = listener >= 0 ? bind_and_unlink(listener, folder) : -1;
    if (fd < 0 || listen(listener, BACKLOG) < 0) {
        fl_fail(error, "cannot create a socket in %s: %s", folder, g_strerror(errno));
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

FlServer *fl_server_new(const FlServerSpec *server_spec, GError **error)
{
    g_autoptr(FlServer) server = g_new0(FlServer, 1);
    int fds[] = {-1, server_spec->extra_fd};
    FlProcessSpec spec = {.argv = server_spec->argv,
                          .fds = fds,
                          .n_fds = server_spec->extra_fd >= 0 ? 2 : 1,
                          .activation = server_spec->activation,
                          .death_signal = server_spec->death_signal,
                          .jail = server_spec->jail,
                          /* The command comes from the user and may use sudo. */
                          .no_new_privs = !server_spec->activation};

    server->socket = -1;
    fds[0] = listen_privately(&server->socket, error);
    if (fds[0] < 0)
        return NULL;
    server->process = fl_process_start(&spec, error);
    /* Only the server keeps the listening socket: once it exits, connecting fails at once. */
    close(fds[0]);
    return server->process != NULL ? g_steal_pointer(&server) : NULL;
}

void fl_server_free(FlServer *server)
{
    if (server == NULL)
        return;
    fl_process_free(server->process);
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
}

bool fl_server_check(FlServer *server, unsigned wait_ms, GError **error)
{
    return fl_process_check(server->process, wait_ms, error);
}
