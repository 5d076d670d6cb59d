/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chains.h"

#include "qemu/qmp.h"
#include "stored/files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Each QMP command's bound: the storage may be slow. */
#define QMP_TIMEOUT_MS 60000
#define FAILED_MS      100
#define MAPFILE_MAX    (256 << 20)
/* A file of which only the mode matters: can the daemon read what we write there? */
#define TRIAL "trial"

struct FlChains {
    const FlStored *stored;
    FlServer *server;
    char *folder; /* for tables; NULL: nothing is in raw */
    char *open;   /* why there is no jail; NULL: there is one */

    GMutex lock; /* for all that follows */
    FlQmp *qmp;
    GHashTable *nodes;   /* of FlStoredImage: those that are open, and the names of their nodes */
    GHashTable *exports; /* of char *: names of those that are served */
};

/* Tables */

/* Whether any of IMAGES, or what they lie on, is an increment in raw. */
static bool needs_tables(const GPtrArray *images)
{
    for (guint i = 0; i < images->len; i++) {
        for (const FlStoredImage *image = images->pdata[i]; image != NULL; image = image->on) {
            if (image->map != NULL)
                return true;
        }
    }
    return false;
}

/* A new file in the folder of tables, as FL_SANDBOX_WRITE allows. */
static int make_file(const FlChains *chains, const char *name, char **path, GError **error)
{
    int fd;

    *path = g_build_filename(chains->folder, name, NULL);
    fd = open(*path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        fl_fail(error, "cannot write %s: %s", *path, g_strerror(errno));
    return fd;
}

/* Others may look for names in it that they know, and not list it. */
static bool make_folder(FlChains *chains, GError **error)
{
    g_autofree char *path = NULL;
    int fd;

    chains->folder = g_build_filename(g_get_tmp_dir(), "fleecefs-XXXXXX", NULL);
    if (g_mkdtemp_full(chains->folder, 0711) == NULL) {
        fl_fail(error, "cannot make a folder in %s: %s", g_get_tmp_dir(), g_strerror(errno));
        g_clear_pointer(&chains->folder, g_free);
        return false;
    }
    fd = make_file(chains, TRIAL, &path, error);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* What there is to be known of the increment in raw IMAGE. */
static FlMap *read_map(const FlStoredImage *image, GError **error)
{
    g_autofree char *text = NULL;
    FlMap *map = NULL;
    struct stat st;
    ssize_t n = -1;
    int fd = fl_stored_open(image->map, error);

    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) != 0 || st.st_size > MAPFILE_MAX) {
        fl_fail(error, "%s: it is too large", image->map);
    } else {
        text = g_malloc((gsize)st.st_size + 1);
        n = pread(fd, text, (size_t)st.st_size, 0);
        if (n != st.st_size)
            fl_fail(error, "%s: it cannot be read", image->map);
    }
    close(fd);
    if (n < 0 || n != st.st_size)
        return NULL;
    map = fl_mapfile_parse(text, (gsize)n, image->size, error);
    if (map == NULL)
        g_prefix_error(error, "%s: ", image->map);
    return map;
}

/* The path of a file with the tables of IMAGE, to be unlinked; NULL with an error. */
static char *make_tables(const FlChains *chains, const FlStoredImage *image, const char *name,
                         GError **error)
{
    g_autoptr(FlMap) map = read_map(image, error);
    g_autofree char *path = NULL;
    int fd = map != NULL ? make_file(chains, name, &path, error) : -1;
    bool ok;

    if (fd < 0)
        return NULL;
    ok = fl_overlay_write(fd, map, error);
    close(fd);
    if (ok)
        return g_steal_pointer(&path);
    unlink(path);
    return NULL;
}

/* The daemon */

static void add_folders(const FlChains *chains, FlJail *jail, const GPtrArray *images)
{
    fl_jail_add_folder(jail, chains->stored->top);
    for (guint i = 0; i < images->len; i++)
        fl_jail_try_file(jail, ((const FlStoredImage *)images->pdata[i])->path);
    if (chains->folder != NULL) {
        g_autofree char *trial = g_build_filename(chains->folder, TRIAL, NULL);

        fl_jail_add_folder(jail, chains->folder);
        fl_jail_try_file(jail, trial);
    }
}

static FlJail *make_jail(FlChains *chains, const char *program, const GPtrArray *images)
{
    g_autoptr(FlJail) jail = fl_jail_new(program);
    g_autoptr(GError) failure = NULL;

    add_folders(chains, jail, images);
    if (fl_jail_prepare(jail, &failure))
        return g_steal_pointer(&jail);
    chains->open = g_strdup(failure->message);
    return NULL;
}

static bool start_daemon(FlChains *chains, const GPtrArray *images, GError **error)
{
    static const char *const argv[] = {"qemu-storage-daemon",
                                       "--chardev",
                                       "socket,id=qmp,fd=4",
                                       "--monitor",
                                       "chardev=qmp",
                                       "--nbd-server",
                                       "addr.type=fd,addr.str=3,max-connections=1000",
                                       NULL};
    g_autofree char *found = g_find_program_in_path(argv[0]);
    g_autoptr(FlJail) jail = NULL;
    g_autoptr(GError) failure = NULL;
    FlServerSpec spec = {.argv = argv, .death_signal = SIGKILL};
    int monitor[2];

    if (found == NULL)
        return fl_fail(error,
                       "backup:%s: %s is not installed, and QEMU is needed to read image files (on "
                       "Debian: qemu-system-common)",
                       chains->stored->top, argv[0]);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, monitor) < 0)
        return fl_fail(error, "cannot make a socket for %s: %s", argv[0], g_strerror(errno));
    jail = make_jail(chains, argv[0], images);
    spec.jail = jail;
    spec.extra_fd = monitor[1];
    chains->server = fl_server_new(&spec, error);
    close(monitor[1]);
    if (chains->server == NULL) {
        close(monitor[0]);
        return false;
    }
    chains->qmp = fl_qmp_new_fd(monitor[0], argv[0], QMP_TIMEOUT_MS, &failure);
    if (chains->qmp == NULL && fl_server_check(chains->server, FAILED_MS, error))
        g_propagate_error(error, g_steal_pointer(&failure));
    return chains->qmp != NULL;
}

FlChains *fl_chains_new(const FlStored *stored, const GPtrArray *images, GError **error)
{
    g_autoptr(FlChains) chains = g_new0(FlChains, 1);

    g_mutex_init(&chains->lock);
    chains->stored = stored;
    chains->nodes = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    chains->exports = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    if ((!needs_tables(images) || make_folder(chains, error)) &&
        start_daemon(chains, images, error))
        return g_steal_pointer(&chains);
    return NULL;
}

void fl_chains_free(FlChains *chains)
{
    if (chains == NULL)
        return;
    fl_qmp_free(chains->qmp);
    fl_server_free(chains->server);
    if (chains->folder != NULL) {
        g_autofree char *trial = g_build_filename(chains->folder, TRIAL, NULL);

        unlink(trial);
        rmdir(chains->folder);
    }
    g_free(chains->folder);
    g_free(chains->open);
    g_hash_table_unref(chains->nodes);
    g_hash_table_unref(chains->exports);
    g_mutex_clear(&chains->lock);
    g_free(chains);
}

FlServer *fl_chains_server(const FlChains *chains)
{
    return chains->server;
}

void fl_chains_allow(const FlChains *chains, FlSandbox *sandbox)
{
    fl_server_allow(chains->server, sandbox);
    if (chains->folder != NULL) {
        g_autofree char *parent = g_path_get_dirname(chains->folder);

        fl_sandbox_allow(sandbox, chains->folder, FL_SANDBOX_WRITE | FL_SANDBOX_REMOVE);
        fl_sandbox_allow(sandbox, parent, FL_SANDBOX_REMOVE_FOLDERS);
    }
    if (chains->open != NULL) {
        g_autofree char *what =
            g_strdup_printf("QEMU reads %s without a jail: %s", chains->stored->top, chains->open);

        fl_sandbox_miss(sandbox, what);
    }
}

/* Opening; the lock is held. */

bool fl_chains_can_open(const FlStoredImage *image, GError **error)
{
    const char *way_out = "restore it with fleecefs-restore";

    if (image->depth >= FL_CHAINS_DEPTH_MAX)
        return fl_fail(error, "%s lies on %u others, more than can be opened at once: %s",
                       image->path, image->depth, way_out);
    for (; image->on != NULL; image = image->on) {
        if (image->on->form == FL_STORED_PIECES)
            return fl_fail(error, "%s is an increment on pieces, which cannot be shown: %s",
                           image->path, way_out);
    }
    return true;
}

static bool check_file(const FlStoredImage *image, GError **error)
{
    g_autoptr(GError) why = NULL;
    struct stat st;
    int fd = fl_stored_open(image->path, error);
    bool ok;

    if (fd < 0)
        return false;
    if (image->form == FL_STORED_QCOW2)
        ok = fl_stored_check_qcow2(fd, image->size, image->base != NULL, &why);
    else
        ok = fstat(fd, &st) == 0 && (uint64_t)st.st_size == image->size;
    close(fd);
    if (!ok && why == NULL)
        fl_fail(&why, "it is not %" G_GUINT64_FORMAT " bytes long", image->size);
    return ok || fl_fail(error, "%s is damaged: %s", image->path, why->message);
}

static JsonNode *file_node(const char *path)
{
    return fl_qmp_args(fl_qmp_string("driver", "file"), fl_qmp_string("filename", path),
                       fl_qmp_bool("read-only", true));
}

/* The same as a child without a name of its own. */
static JsonNode *raw_node(const char *path)
{
    return fl_qmp_args(fl_qmp_string("driver", "raw"), fl_qmp_bool("read-only", true),
                       fl_qmp_node("file", file_node(path)));
}

/* What blockdev-add is to be told of IMAGE; TABLES: NULL unless it is an increment in raw. */
static JsonNode *image_node(const FlStoredImage *image, const char *name, const char *below,
                            const char *tables)
{
    JsonNode *backing;

    if (image->form == FL_STORED_RAW && image->base == NULL)
        return fl_qmp_args(fl_qmp_string("driver", "raw"), fl_qmp_string("node-name", name),
                           fl_qmp_bool("read-only", true),
                           fl_qmp_node("file", file_node(image->path)));
    /* Without this QEMU would take what the file names. */
    backing = json_node_new(below != NULL ? JSON_NODE_VALUE : JSON_NODE_NULL);
    if (below != NULL)
        json_node_set_string(backing, below);
    return fl_qmp_args(fl_qmp_string("driver", "qcow2"), fl_qmp_string("node-name", name),
                       fl_qmp_bool("read-only", true), fl_qmp_node("backing", backing),
                       fl_qmp_node("file", file_node(tables != NULL ? tables : image->path)),
                       fl_qmp_node("data-file", tables != NULL ? raw_node(image->path) : NULL));
}

/* Opens IMAGE on the node BELOW, NULL for a full backup. */
static bool open_one(FlChains *chains, const FlStoredImage *image, const char *below,
                     GError **error)
{
    g_autofree char *name = g_strdup_printf("image%u", g_hash_table_size(chains->nodes));
    g_autofree char *tables = NULL;
    g_autoptr(GError) why = NULL;
    bool ok;

    if (!check_file(image, error))
        return false;
    if (image->map != NULL && (tables = make_tables(chains, image, name, error)) == NULL)
        return false;
    ok = fl_qmp_call(chains->qmp, "blockdev-add", image_node(image, name, below, tables), NULL,
                     &why);
    if (tables != NULL)
        unlink(tables);
    if (!ok)
        return fl_fail(error, "cannot open %s: %s", image->path, why->message);
    g_hash_table_insert(chains->nodes, (gpointer)image, g_steal_pointer(&name));
    return true;
}

/* The name of the node of IMAGE, which is opened with all that it lies on; NULL with an error. */
static const char *open_chain(FlChains *chains, const FlStoredImage *image, GError **error)
{
    g_autoptr(GPtrArray) line = g_ptr_array_new();

    for (; image != NULL && g_hash_table_lookup(chains->nodes, image) == NULL; image = image->on)
        g_ptr_array_add(line, (gpointer)image);
    while (line->len > 0) {
        const FlStoredImage *next = g_ptr_array_steal_index(line, line->len - 1);

        if (!open_one(chains, next,
                      image != NULL ? g_hash_table_lookup(chains->nodes, image) : NULL, error))
            return NULL;
        image = next;
    }
    return g_hash_table_lookup(chains->nodes, image);
}

static bool export_node(FlChains *chains, const char *node, const char *name, GError **error)
{
    g_autofree char *id = g_strdup_printf("export%u", g_hash_table_size(chains->exports));

    return fl_qmp_call(chains->qmp, "block-export-add",
                       fl_qmp_args(fl_qmp_string("type", "nbd"), fl_qmp_string("id", id),
                                   fl_qmp_string("node-name", node), fl_qmp_string("name", name),
                                   fl_qmp_bool("allocation-depth", true)),
                       NULL, error);
}

bool fl_chains_open(FlChains *chains, const FlStoredImage *image, const char *name, GError **error)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&chains->lock);
    const char *node;

    if (g_hash_table_contains(chains->exports, name))
        return true;
    node = open_chain(chains, image, error);
    if (node == NULL)
        return false;
    if (!export_node(chains, node, name, error)) {
        g_prefix_error(error, "cannot serve %s: ", image->path);
        return false;
    }
    g_hash_table_add(chains->exports, g_strdup(name));
    return true;
}
