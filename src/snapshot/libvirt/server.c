/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The backup job's NBD server and files.
 *
 * The VM's process creates the socket and scratch files in a directory that we create for it and
 * that nobody else may enter: DIR/fleecefs-X/nbd and DIR/fleecefs-X/vda. If libvirt is reached over
 * TLS or TCP, only its storage calls are available, which create no directory: the files are then
 * DIR/fleecefs-X-vda, and the server has no socket. These names in the job's XML identify the job
 * as ours.
 */
#include "snapshot/libvirt/session.h"

#include "util/clients.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define PREFIX "fleecefs-"
#define SOCKET "nbd"
#define DIGITS 16
/* Milliseconds between checks for connected clients; and for a server to show a connection. */
#define LOOK_INTERVAL 20
#define OPEN_TIMEOUT  10000

static bool has_pool(const FlLibvirtSession *session)
{
    return session->remote != NULL && !fl_remote_has_ssh(session->remote);
}

/* Returns the path prefix of all files of the job whose server is at SOCKET. */
static char *stem_of(const char *socket)
{
    return g_strndup(socket, strlen(socket) - strlen(SOCKET));
}

/* Whether NAME is what fl_libvirt_choose_socket() makes, followed by END. Other names are not ours
 * to remove: the files of all sessions begin with the prefix. */
static bool is_ours(const char *name, const char *end)
{
    const char *digits = name + strlen(PREFIX);

    return g_str_has_prefix(name, PREFIX) && strspn(digits, "0123456789abcdef") == DIGITS &&
           g_str_equal(digits + DIGITS, end);
}

bool fl_libvirt_is_our_socket(const char *socket)
{
    g_autofree char *name = socket != NULL ? g_path_get_basename(socket) : NULL;
    g_autofree char *directory = socket != NULL ? g_path_get_dirname(socket) : NULL;
    g_autofree char *above = directory != NULL ? g_path_get_basename(directory) : NULL;

    if (name == NULL)
        return false;
    return g_str_equal(name, SOCKET) ? is_ours(above, "") : is_ours(name, "-" SOCKET);
}

char *fl_libvirt_choose_socket(const FlLibvirtSession *session)
{
    return g_strdup_printf("%s/" PREFIX "%08x%08x%c" SOCKET, session->scratch, g_random_int(),
                           g_random_int(), has_pool(session) ? '-' : '/');
}

/* Finds the address where the server listens if it has no socket. */
static bool find_address(FlLibvirtSession *session, GError **error)
{
    if (session->listen.certificates == NULL)
        return true;
    session->listen.tried = 0;
    fl_listen_next(&session->listen);
    g_free(session->address);
    session->address = fl_listen_address(&session->listen, fl_remote_host(session->remote), error);
    return session->address != NULL;
}

bool fl_libvirt_serve(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    g_autofree char *directory = NULL;
    const FlDomain *domain = session->description;

    if (session->socket == NULL)
        return true;
    if (!find_address(session, error))
        return false;
    /* libvirt creates the files in a pool. */
    if (has_pool(session))
        return true;
    directory = g_path_get_dirname(session->socket);
    if (session->address == NULL &&
        strlen(session->socket) >= sizeof((struct sockaddr_un *)NULL)->sun_path)
        return fl_fail(error,
                       "scratch directory %s: the path is too long for a socket; choose another "
                       "with -o scratch=DIR",
                       session->scratch);
    if (session->remote != NULL) {
        if (fl_remote_make(session->remote, directory, domain->user, domain->group, error))
            return true;
        g_prefix_error(error, "scratch directory %s: ", session->scratch);
        return false;
    }
    if (g_mkdir(directory, 0700) < 0 ||
        (geteuid() == 0 && domain->user >= 0 &&
         lchown(directory, (uid_t)domain->user, (gid_t)domain->group) < 0))
        return fl_fail(error, "scratch directory %s: %s; choose another with -o scratch=DIR",
                       session->scratch, g_strerror(errno));
    return true;
}

bool fl_libvirt_find_server(FlLibvirtSession *session, GError **error)
{
    FlSnapshot *backup = &session->backup;

    if (session->remote != NULL) {
        const char *socket = session->address == NULL ? session->socket : NULL;
        g_autoptr(GError) failure = NULL;
        g_autofree char *uri =
            socket == NULL ? fl_listen_uri(&session->listen, fl_remote_host(session->remote))
                           : NULL;
        if (socket != NULL)
            backup->relay =
                fl_remote_relay(session->remote, socket, session->uuid, session->total, &failure);
        if (failure != NULL)
            g_info("a read takes two round trips: no relay: %s", failure->message);
        backup->server_uri = fl_remote_serve(session->remote, socket, uri, error);
        return backup->server_uri != NULL;
    }
    session->clients = fl_clients_open(session->socket, OPEN_TIMEOUT);
    backup->socket = open(session->socket, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return backup->socket >= 0 || fl_fail(error, "%s: %s", session->socket, g_strerror(errno));
}

static int count_clients(const FlLibvirtSession *session, const char *socket)
{
    return session->remote != NULL ? fl_remote_clients(session->remote, socket)
                                   : fl_clients_count(session->clients, socket);
}

bool fl_libvirt_clients_have_left(FlLibvirtSession *session, const char *socket, unsigned timeout,
                                  GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout * 1000;

    if (session->clients < 0 && session->remote == NULL)
        session->clients = fl_clients_open(socket, timeout);
    while (count_clients(session, socket) > 0) {
        if (g_get_monotonic_time() >= end)
            return fl_fail(
                error,
                "another client is connected to the snapshot's NBD server, %s: end that client. "
                "Until then the backup job stays, because ending it could hang the VM",
                socket);
        g_usleep(LOOK_INTERVAL * G_TIME_SPAN_MILLISECOND);
    }
    return true;
}

/* Removes the files in folder PATH whose names begin with PREFIX. PATH belongs to the VM's process,
 * which could replace it by a link to another folder. */
static void remove_files_here(const char *path, const char *prefix)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;

    if (directory == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((entry = readdir(directory)) != NULL) {
        if (g_str_has_prefix(entry->d_name, prefix))
            unlinkat(fd, entry->d_name, 0);
    }
    closedir(directory);
}

bool fl_libvirt_remove_files(FlLibvirtSession *session, const char *socket, GError **error)
{
    g_autofree char *stem = NULL, *path = NULL;
    const char *prefix;

    if (!fl_libvirt_is_our_socket(socket))
        return true;
    stem = stem_of(socket);
    if (has_pool(session))
        return fl_pool_remove(session, stem, error);
    if (session->remote != NULL)
        return fl_remote_remove(session->remote, stem, error);
    path = g_path_get_dirname(socket);
    prefix = strrchr(stem, '/') + 1;
    remove_files_here(path, prefix);
    if (*prefix == '\0')
        g_rmdir(path);
    return true;
}

bool fl_libvirt_check_clients(FlLibvirtSession *session, GError **error)
{
    return session->socket == NULL ||
           fl_libvirt_clients_have_left(session, session->socket, FL_LIBVIRT_LET_GO_MS, error);
}
