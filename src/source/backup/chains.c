/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chains.h"

#include "source/file-sizes.h"
#include "source/storage-daemon.h"
#include "stored/files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAPFILE_MAX (256 << 20)
/* A file that tests, by its mode, whether the daemon can read what we write there. */
#define TRIAL "trial"

struct FlChains {
    const FlStored *stored;
    FlServer *server;
    char *folder;       /* for tables; NULL if there are no raw increments */
    char *open;         /* why there is no jail; NULL if there is one */
    FlFileSizes *sizes; /* of the open nodes' files, by FlStoredImage */

    GMutex lock; /* protects all fields below */
    FlQmp *qmp;
    GHashTable *nodes;   /* open nodes: FlStoredImage to Node */
    GHashTable *exports; /* served exports: name to Export */
    guint64 count;       /* nodes, exports and uses so far; numbers them uniquely */
};

typedef struct {
    char *name;
    guint users; /* exports of it, and nodes on top of it */
} Node;

typedef struct {
    char *id;
    const FlStoredImage *image;
    guint held;   /* by callers that are about to connect */
    guint64 used; /* number of its last use */
} Export;

static void node_free(gpointer data)
{
    g_free(((Node *)data)->name);
    g_free(data);
}

static void export_free(gpointer data)
{
    g_free(((Export *)data)->id);
    g_free(data);
}

/* Tables */

/* Whether any of IMAGES, or an image below, is a raw increment. */
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

/* Creates a file in the tables folder, as FL_SANDBOX_WRITE allows. */
static int make_file(const FlChains *chains, const char *name, char **path, GError **error)
{
    int fd;

    *path = g_build_filename(chains->folder, name, NULL);
    fd = open(*path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        fl_fail(error, "cannot write %s: %s", *path, g_strerror(errno));
    return fd;
}

/* The folder is searchable but not readable for others: they can open known names but not list
 * it. */
static bool make_folder(FlChains *chains, GError **error)
{
    g_autofree char *path = NULL;
    int fd;

    chains->folder = g_build_filename(g_get_tmp_dir(), "fleecefs-XXXXXX", NULL);
    if (g_mkdtemp_full(chains->folder, 0711) == NULL) {
        fl_fail(error, "cannot create a folder in %s: %s", g_get_tmp_dir(), g_strerror(errno));
        g_clear_pointer(&chains->folder, g_free);
        return false;
    }
    fd = make_file(chains, TRIAL, &path, error);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* Reads the map of the raw increment IMAGE. */
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
        fl_fail(error, "%s: too large", image->map);
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

/* Writes the tables of IMAGE to a file. Returns its path, which the caller unlinks; NULL with an
 * error. */
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
    g_autofree char *found = g_find_program_in_path(FL_STORAGE_DAEMON);
    g_autoptr(FlJail) jail = NULL;

    if (found == NULL)
        return fl_fail(error,
                       "backup:%s: %s is not installed, and QEMU is needed to read image files (on "
                       "Debian: qemu-system-common)",
                       chains->stored->top, FL_STORAGE_DAEMON);
    jail = make_jail(chains, FL_STORAGE_DAEMON, images);
    chains->server = fl_storage_daemon_start(jail, &chains->qmp, error);
    return chains->server != NULL;
}

FlChains *fl_chains_new(const FlStored *stored, const GPtrArray *images, GError **error)
{
    g_autoptr(FlChains) chains = g_new0(FlChains, 1);

    g_mutex_init(&chains->lock);
    chains->stored = stored;
    chains->sizes = fl_file_sizes_new();
    chains->nodes = g_hash_table_new_full(NULL, NULL, NULL, node_free);
    chains->exports = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, export_free);
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
    fl_file_sizes_free(chains->sizes);
    g_hash_table_unref(chains->nodes);
    g_hash_table_unref(chains->exports);
    g_mutex_clear(&chains->lock);
    g_free(chains);
}

FlServer *fl_chains_server(const FlChains *chains)
{
    return chains->server;
}

char *fl_chains_fault(const FlChains *chains, const FlStoredImage *image)
{
    char *fault = NULL;

    for (; image != NULL && fault == NULL; image = image->on)
        fault = fl_file_sizes_fault(chains->sizes, image);
    return fault;
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

/* Opening; the caller holds the lock. */

bool fl_chains_can_open(const FlStoredImage *image, GError **error)
{
    const char *way_out = "restore it with fleecefs-restore";

    if (image->depth >= FL_CHAINS_DEPTH_MAX)
        return fl_fail(error, "%s depends on %u others, more than can be opened at once: %s",
                       image->path, image->depth, way_out);
    for (; image->on != NULL; image = image->on) {
        if (image->on->form == FL_STORED_PIECES)
            return fl_fail(error,
                           "%s is an increment relative to pieces, which cannot be shown: %s",
                           image->path, way_out);
    }
    return true;
}

/* Checks the file of IMAGE and, if it is sound, watches it. Call before QEMU opens it. */
static bool check_file(FlChains *chains, const FlStoredImage *image, GError **error)
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
    if (ok)
        fl_file_sizes_add_fd(chains->sizes, image, image->path, fd);
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

/* A raw node on PATH, for use as an unnamed child. */
static JsonNode *raw_node(const char *path)
{
    return fl_qmp_args(fl_qmp_string("driver", "raw"), fl_qmp_bool("read-only", true),
                       fl_qmp_node("file", file_node(path)));
}

/* Returns the arguments of blockdev-add for IMAGE. TABLES is NULL unless it is a raw increment. */
static JsonNode *image_node(const FlStoredImage *image, const char *name, const char *below,
                            const char *tables)
{
    JsonNode *backing;

    if (image->form == FL_STORED_RAW && image->base == NULL)
        return fl_qmp_args(fl_qmp_string("driver", "raw"), fl_qmp_string("node-name", name),
                           fl_qmp_bool("read-only", true),
                           fl_qmp_node("file", file_node(image->path)));
    /* Without this QEMU would open the backing file named in the image. */
    backing = json_node_new(below != NULL ? JSON_NODE_VALUE : JSON_NODE_NULL);
    if (below != NULL)
        json_node_set_string(backing, below);
    return fl_qmp_args(fl_qmp_string("driver", "qcow2"), fl_qmp_string("node-name", name),
                       fl_qmp_bool("read-only", true), fl_qmp_node("backing", backing),
                       fl_qmp_node("file", file_node(tables != NULL ? tables : image->path)),
                       fl_qmp_node("data-file", tables != NULL ? raw_node(image->path) : NULL));
}

/* Adds a node NAME for IMAGE, on top of BELOW, and checks that QEMU has opened the file that is
 * watched. */
static bool add_node(FlChains *chains, const FlStoredImage *image, const char *name,
                     const char *below, const char *tables, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (!fl_qmp_call(chains->qmp, "blockdev-add", image_node(image, name, below, tables), NULL,
                     &why))
        return fl_fail(error, "cannot open %s: %s", image->path, why->message);
    if (fl_file_sizes_is_at(chains->sizes, image, image->path))
        return true;
    fl_qmp_call(chains->qmp, "blockdev-del", fl_qmp_args(fl_qmp_string("node-name", name)), NULL,
                NULL);
    return fl_fail(error, "%s was replaced while it was opened; try again", image->path);
}

/* Opens IMAGE on top of the node BELOW, NULL for a full backup. */
static Node *open_one(FlChains *chains, const FlStoredImage *image, Node *below, GError **error)
{
    g_autofree char *name = g_strdup_printf("image%" G_GUINT64_FORMAT, chains->count++);
    g_autofree char *tables = NULL;
    Node *node;
    bool ok;

    if (!check_file(chains, image, error))
        return NULL;
    ok = image->map == NULL || (tables = make_tables(chains, image, name, error)) != NULL;
    ok = ok && add_node(chains, image, name, below != NULL ? below->name : NULL, tables, error);
    if (tables != NULL)
        unlink(tables);
    if (!ok) {
        fl_file_sizes_remove(chains->sizes, image);
        return NULL;
    }
    if (below != NULL)
        below->users++;
    node = g_new0(Node, 1);
    node->name = g_steal_pointer(&name);
    g_hash_table_insert(chains->nodes, (gpointer)image, node);
    return node;
}

/* Returns the node of IMAGE, opening it and all images below it; NULL with an error. */
static Node *open_chain(FlChains *chains, const FlStoredImage *image, GError **error)
{
    g_autoptr(GPtrArray) line = g_ptr_array_new();
    Node *node = NULL;

    for (; image != NULL && (node = g_hash_table_lookup(chains->nodes, image)) == NULL;
         image = image->on)
        g_ptr_array_add(line, (gpointer)image);
    while (line->len > 0) {
        node = open_one(chains, g_ptr_array_steal_index(line, line->len - 1), node, error);
        if (node == NULL)
            return NULL;
    }
    return node;
}

/* Closes unused nodes. One that QEMU still holds is kept for the next call. */
static void close_nodes(FlChains *chains)
{
    GHashTableIter iter;
    gpointer key, value;
    bool again;

    do {
        again = false;
        g_hash_table_iter_init(&iter, chains->nodes);
        while (g_hash_table_iter_next(&iter, &key, &value)) {
            const FlStoredImage *image = key;
            const Node *node = value;
            Node *below = image->on != NULL ? g_hash_table_lookup(chains->nodes, image->on) : NULL;

            if (node->users > 0 ||
                !fl_qmp_call(chains->qmp, "blockdev-del",
                             fl_qmp_args(fl_qmp_string("node-name", node->name)), NULL, NULL))
                continue;
            if (below != NULL)
                again = --below->users == 0 || again;
            fl_file_sizes_remove(chains->sizes, image);
            g_hash_table_iter_remove(&iter);
        }
    } while (again);
}

/* Returns the least recently used export whose last use is later than AFTER; NULL if there is
 * none. */
static const char *oldest(const FlChains *chains, guint64 after)
{
    const char *found = NULL;
    guint64 used = G_MAXUINT64;
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, chains->exports);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        const Export *export = value;

        if (export->held == 0 && export->used > after && export->used < used) {
            found = key;
            used = export->used;
        }
    }
    return found;
}

/* Makes room for one more export. Exports with clients stay: QEMU refuses to remove them. */
static void close_oldest(FlChains *chains)
{
    const char *name;
    guint64 after = 0;

    while (g_hash_table_size(chains->exports) >= FL_CHAINS_OPEN_MAX &&
           (name = oldest(chains, after)) != NULL) {
        const Export *export = g_hash_table_lookup(chains->exports, name);

        after = export->used;
        if (!fl_qmp_call(chains->qmp, "block-export-del",
                         fl_qmp_args(fl_qmp_string("id", export->id)), NULL, NULL))
            continue;
        ((Node *)g_hash_table_lookup(chains->nodes, export->image))->users--;
        g_hash_table_remove(chains->exports, name);
    }
    if (after > 0)
        close_nodes(chains);
}

/* Exports IMAGE as NAME. Returns NULL with an error. */
static Export *export_image(FlChains *chains, const FlStoredImage *image, const char *name,
                            GError **error)
{
    g_autofree char *id = NULL;
    Export *export;
    Node *node;

    close_oldest(chains);
    node = open_chain(chains, image, error);
    if (node == NULL)
        return NULL;
    id = g_strdup_printf("export%" G_GUINT64_FORMAT, chains->count++);
    if (!fl_qmp_call(chains->qmp, "block-export-add",
                     fl_qmp_args(fl_qmp_string("type", "nbd"), fl_qmp_string("id", id),
                                 fl_qmp_string("node-name", node->name),
                                 fl_qmp_string("name", name),
                                 fl_qmp_bool("allocation-depth", true)),
                     NULL, error)) {
        g_prefix_error(error, "cannot serve %s: ", image->path);
        return NULL;
    }
    node->users++;
    export = g_new0(Export, 1);
    *export = (Export){.id = g_steal_pointer(&id), .image = image};
    g_hash_table_insert(chains->exports, g_strdup(name), export);
    return export;
}

bool fl_chains_hold(FlChains *chains, const FlStoredImage *image, const char *name, GError **error)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&chains->lock);
    Export *export = g_hash_table_lookup(chains->exports, name);

    if (export == NULL)
        export = export_image(chains, image, name, error);
    if (export == NULL)
        return false;
    export->held++;
    export->used = ++chains->count;
    return true;
}

void fl_chains_let_go(FlChains *chains, const char *name)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&chains->lock);
    Export *export = g_hash_table_lookup(chains->exports, name);

    export->held--;
}
