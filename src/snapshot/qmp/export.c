/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD server in the VM and its exports.
 *
 * We pass QEMU a listening socket, so QEMU needs no access to the directory of the socket; nobody
 * else can reach it, because that directory is private. The journal stores its path: recovery
 * connects to it to find out whether the server still runs, which QMP does not report.
 */
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"
#include "util/clients.h"
#include "util/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define FD_NAME FL_FLEECE_PREFIX "nbd"

char *fl_fleece_choose_socket(void)
{
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");
    bool fits = runtime != NULL && g_path_is_absolute(runtime) && strlen(runtime) < 60 &&
                g_access(runtime, W_OK) == 0;

    return g_strdup_printf("%s/fleecefs-%08x%08x/nbd", fits ? runtime : "/tmp", g_random_int(),
                           g_random_int());
}

static int unix_socket(const char *path, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (g_strlcpy(address->sun_path, path, sizeof address->sun_path) >= sizeof address->sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

static int listen_at(const char *path, GError **error)
{
    g_autofree char *directory = g_path_get_dirname(path);
    struct sockaddr_un address;
    int fd = -1;

    if (g_mkdir(directory, 0700) == 0) {
        fd = unix_socket(path, &address);
        if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
            listen(fd, 128) == 0)
            return fd;
    }
    fl_fail(error, "%s: %s", path, g_strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool start_server(FlFleece *session, int fd, GError **error)
{
    g_autoptr(GError) failure = NULL;
    /* Unlimited (a parameter of newer QEMUs): the server is private to one mount. */
    const gint64 max_connections = 0;
    JsonNode *address =
        fl_qmp_args(fl_qmp_string("type", "fd"),
                    fl_qmp_node("data", fl_qmp_args(fl_qmp_string("str", FD_NAME))));

    if (!fl_qmp_call_fd(session->qmp, "getfd", fl_qmp_args(fl_qmp_string("fdname", FD_NAME)), fd,
                        NULL, error)) {
        json_node_unref(address);
        g_prefix_error(error, "NBD server: cannot pass its socket: ");
        return false;
    }
    if (fl_qmp_call(session->qmp, "nbd-server-start",
                    fl_qmp_args(fl_qmp_node("addr", address),
                                fl_qmp_int("max-connections", max_connections)),
                    NULL, &failure))
        return true;
    if (strstr(failure->message, "already running") != NULL)
        return fl_fail(error, "an NBD server already runs in this VM; stop it (nbd-server-stop), "
                              "or give its address with -o nbd=URI");
    g_propagate_prefixed_error(error, g_steal_pointer(&failure), "NBD server: ");
    return false;
}

bool fl_fleece_serve(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    bool ok;
    int fd;

    if (session->socket == NULL)
        return true;
    fd = listen_at(session->socket, error);
    if (fd < 0)
        return false;
    ok = start_server(session, fd, error);
    close(fd);
    if (!ok)
        return false;
    session->backup.socket = open(session->socket, O_PATH | O_CLOEXEC);
    return session->backup.socket >= 0 ||
           fl_fail(error, "%s: %s", session->socket, g_strerror(errno));
}

typedef enum { SERVER_NONE, SERVER_ANSWERS, SERVER_SILENT } Server;

/*
 * Checks whether the server at PATH answers and has finished with earlier clients: QEMU 7.2 hangs
 * forever, with the VM, if its NBD server is stopped while a client is negotiating; 10.0 does not.
 * End of stream is the last thing the server does for a client that disconnects.
 */
static Server ask_server(const char *path)
{
    enum { PATIENCE_MS = 10000 };
    int fd = fl_unix_connect(path);
    bool ended;

    if (fd < 0)
        return fl_fleece_listens(path) ? SERVER_SILENT : SERVER_NONE;
    ended = fl_unix_leave_nbd(fd, PATIENCE_MS);
    close(fd);
    return ended ? SERVER_ANSWERS : SERVER_SILENT;
}

/* Stops the server before removing its socket, and only if it is the one listening there. */
bool fl_fleece_stop_server(FlFleece *session, GError **error)
{
    const FlJournalEntry *entry = fl_journal_entry(session->backup.journal);
    g_autofree char *path = NULL;
    g_autofree char *directory = NULL;
    Server server;

    if (entry == NULL || entry->socket == NULL)
        return true;
    path = g_strdup(entry->socket);
    directory = g_path_get_dirname(path);

    if (!session->gone) {
        /* If the descriptor was passed but not used, QEMU still holds the listening socket: close
         * it. */
        fl_qmp_call(session->qmp, "closefd", fl_qmp_args(fl_qmp_string("fdname", FD_NAME)), NULL,
                    NULL);
        server = ask_server(path);
        if (server != SERVER_NONE) {
            if (server == SERVER_SILENT && !fl_vm_is_since(session->qmp, 10, 0, 0))
                return fl_fail(error, "NBD server: it does not answer at %s", path);
            if (!fl_fleece_do(session, "nbd-server-stop", NULL, NULL, error, "NBD server"))
                return false;
            fl_snapshot_report(&session->backup, "stopped the NBD server");
        }
    }
    g_unlink(path);
    g_rmdir(directory);
    return true;
}

static bool add_export(FlFleece *session, FlFleeceDisk *disk, GError **error)
{
    g_autofree char *id = fl_fleece_id(disk, "export");
    g_autofree char *overlay = fl_fleece_id(disk, "overlay");
    g_autoptr(GError) failure = NULL;
    JsonArray *bitmaps = json_array_new();

    for (guint i = 0; i < disk->copies->len; i++) {
        const FlFleeceCopy *copy = g_ptr_array_index(disk->copies, i);
        json_array_add_string_element(bitmaps, copy->name);
    }
    if (fl_fleece_do(session, "block-export-add",
                     fl_qmp_args(fl_qmp_string("type", "nbd"), fl_qmp_string("id", id),
                                 fl_qmp_string("node-name", overlay),
                                 fl_qmp_string("name", disk->disk.export_name),
                                 fl_qmp_bool("writable", false),
                                 fl_qmp_bool("allocation-depth", true),
                                 fl_qmp_node("bitmaps", fl_json_array_node(bitmaps))),
                     NULL, &failure, "disk %s: export", disk->disk.name))
        return true;
    if (strstr(failure->message, "not running") != NULL)
        return fl_fail(error, "no NBD server runs in this VM; omit -o nbd= to start one");
    g_propagate_error(error, g_steal_pointer(&failure));
    return false;
}

bool fl_fleece_export(FlFleece *session, GError **error)
{
    for (guint i = 0; i < session->backup.disks->len; i++) {
        if (!add_export(session, g_ptr_array_index(session->backup.disks, i), error))
            return false;
    }
    return true;
}
