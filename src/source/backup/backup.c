/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What fleecefs-backup has stored, as a source: backup:FOLDER[?vm=NAME][&at=WHEN], or ?all. */
#include "chains.h"
#include "map/context.h"
#include "source/kind.h"
#include "source/nbd/nbd.h"
#include "source/pieces/source.h"
#include "util/size.h"

#include <string.h>

#define PREFIX "backup:"
/* Block size of the daemon's server in bytes; suits all images. */
#define BLOCK 512u

typedef struct {
    char *name; /* the export's name: its folder below the top */
    const FlStoredImage *image;
    FlSource
        *pieces; /* protected by the source's lock; NULL until first used, or if not in pieces */
} Disk;

typedef struct {
    FlSource source; /* first; on top of the daemon's NBD source, or of none if all disks are in
                        pieces */
    FlStored *stored;
    GPtrArray *disks;    /* of Disk */
    GHashTable *by_name; /* the same: name to Disk */
    bool all;            /* ?all: show all backups, in folders */
    FlChains *chains;    /* NULL once closed, or if all disks are in pieces */
    FlBudget *budget;
    GMutex lock;
} BackupSource;

/* The parsed command line. */
typedef struct {
    char *folder, *vm, *at; /* vm, at: NULL if not given */
    bool all;
} Wanted;

static void wanted_clear(Wanted *wanted)
{
    g_free(wanted->folder);
    g_free(wanted->vm);
    g_free(wanted->at);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Wanted, wanted_clear)

static bool take_option(Wanted *wanted, const char *option)
{
    char **where = g_str_has_prefix(option, "vm=")   ? &wanted->vm
                   : g_str_has_prefix(option, "at=") ? &wanted->at
                                                     : NULL;

    if (g_str_equal(option, "all"))
        wanted->all = true;
    else if (where == NULL || *where != NULL)
        return false;
    else
        *where = g_uri_unescape_string(option + strlen("vm="), NULL);
    return where == NULL || (*where != NULL && **where != '\0');
}

static bool parse(const char *text, Wanted *wanted, GError **error)
{
    const char *rest = text + strlen(PREFIX), *query = strrchr(rest, '?');
    g_auto(GStrv) options = NULL;

    /* The folder's own name may contain '?'. */
    if (query != NULL && g_file_test(rest, G_FILE_TEST_IS_DIR))
        query = NULL;
    wanted->folder = query != NULL ? g_strndup(rest, (gsize)(query - rest)) : g_strdup(rest);
    options = g_strsplit(query != NULL ? query + 1 : "", "&", -1);
    for (char **o = options; *o != NULL; o++) {
        if (!take_option(wanted, *o))
            return fl_fail_usage(error,
                                 "%s: invalid parameter '%s': write "
                                 "backup:FOLDER[?vm=NAME][&at=WHEN], or backup:FOLDER?all",
                                 text, *o);
    }
    if (*wanted->folder == '\0')
        return fl_fail_usage(
            error, "%s: no folder is given: write backup:FOLDER[?vm=NAME][&at=WHEN]", text);
    return !wanted->all || wanted->at == NULL ||
           fl_fail_usage(error, "%s: give either all or at=WHEN", text);
}

/* The source */

static BackupSource *backup_of(FlSource *source)
{
    return (BackupSource *)source;
}

static void disk_free(gpointer data)
{
    Disk *disk = data;

    fl_source_unref(disk->pieces);
    g_free(disk->name);
    g_free(disk);
}

static bool is_in_pieces(const FlStoredImage *image)
{
    return image->form == FL_STORED_PIECES;
}

/* Called for each reply: its cost does not depend on the number of disks. */
static Disk *find_disk(FlSource *source, const char *name)
{
    return g_hash_table_lookup(backup_of(source)->by_name, name);
}

/* Returns the name of the folder that contains PATH. */
static char *name_of_parent(const char *path)
{
    g_autofree char *parent = g_path_get_dirname(path);

    return g_path_get_basename(parent);
}

/* Returns where the tree shows IMAGE: VM/GENERATION/DISK, or only DISK. */
static char **path_of(const FlStoredImage *image, bool all)
{
    g_autofree char *generation = fl_stored_generation_folder(image);
    g_autofree char *name = g_path_get_basename(generation), *vm = name_of_parent(generation);
    const char *const path[] = {vm, name, image->disk, NULL};

    return g_strdupv((char **)(all ? path : path + 2));
}

static FlExportInfo *make_info(const Disk *disk, bool all)
{
    const FlStoredImage *image = disk->image;
    /* QEMU rounds sizes up to sectors. */
    bool pieces = is_in_pieces(image);
    FlExportInfo *info = fl_export_info_new(
        disk->name, pieces ? image->size : fl_div_up(image->size, BLOCK) * BLOCK);

    info->description =
        g_strdup_printf("generation %s of VM %s", image->generation, fl_stored_vm_label(image->vm));
    info->path = path_of(image, all);
    info->mtime = info->ctime = image->time;
    g_ptr_array_add(info->contexts, g_strdup(FL_CONTEXT_NAME_ALLOCATION));
    if (!pieces) {
        info->block_min = BLOCK;
        g_ptr_array_add(info->contexts, g_strdup(FL_CONTEXT_NAME_DEPTH));
    }
    return info;
}

static GPtrArray *backup_exports(FlSource *source, const char *name, const FlWait *wait,
                                 GError **error)
{
    const BackupSource *backup = backup_of(source);
    GPtrArray *exports = g_ptr_array_new_with_free_func((GDestroyNotify)fl_export_info_free);

    for (guint i = 0; i < backup->disks->len; i++) {
        const Disk *disk = backup->disks->pdata[i];
        if (name == NULL || g_str_equal(name, disk->name))
            g_ptr_array_add(exports, make_info(disk, backup->all));
    }
    return exports;
}

/* Opens the pieces of DISK; only now checks that they are complete and match info.json. */
static FlSource *open_pieces(BackupSource *backup, Disk *disk, GError **error)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&backup->lock);

    if (disk->pieces == NULL)
        disk->pieces = fl_source_pieces_new(disk->image->path, backup->budget, error);
    return disk->pieces;
}

/* Returns the source that serves export NAME until leave(), opening the export if it was not opened
 * yet or closed since. Belongs to SOURCE; NULL with an error. */
static FlSource *serve(FlSource *source, const char *name, GError **error)
{
    BackupSource *backup = backup_of(source);
    Disk *disk = find_disk(source, name);

    if (disk == NULL) {
        fl_fail(error, "%s has no export \"%s\"", source->label, name);
        return NULL;
    }
    if (is_in_pieces(disk->image))
        return open_pieces(backup, disk, error);
    return fl_chains_hold(backup->chains, disk->image, name, error) ? source->below : NULL;
}

/* From now on the export stays open only while it has clients. */
static void leave(FlSource *source, const char *name)
{
    const Disk *disk = find_disk(source, name);

    if (disk != NULL && !is_in_pieces(disk->image))
        fl_chains_let_go(backup_of(source)->chains, name);
}

static FlConn *backup_open(FlSource *source, const FlExportInfo *info, const char *const *contexts,
                           const FlWait *wait, GError **error)
{
    FlSource *server = serve(source, info->name, error);

    FlConn *conn;

    if (server == NULL)
        return NULL;
    conn = fl_source_open(server, info, contexts, wait, error);
    leave(source, info->name);
    return conn;
}

static FlDiskMaps *backup_load(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                               GError **error)
{
    FlSource *server = serve(source, info->name, error);

    FlDiskMaps *maps;

    if (server == NULL)
        return NULL;
    maps = fl_source_load(server, info, wait, error);
    leave(source, info->name);
    return maps;
}

/* Pieces are checked as they are read. */
static char *backup_fault(FlSource *source, const char *name)
{
    const FlChains *chains = backup_of(source)->chains;
    const Disk *disk = find_disk(source, name);

    return chains != NULL && disk != NULL && !is_in_pieces(disk->image)
               ? fl_chains_fault(chains, disk->image)
               : NULL;
}

static void backup_allow(const FlSource *source, FlSandbox *sandbox)
{
    const BackupSource *backup = (const BackupSource *)source;

    if (backup->chains != NULL)
        fl_chains_allow(backup->chains, sandbox);
    /* Files are checked before QEMU gets them. */
    fl_sandbox_allow(sandbox, backup->stored->top, FL_SANDBOX_READ);
    for (guint i = 0; i < backup->disks->len; i++) {
        const Disk *disk = backup->disks->pdata[i];
        fl_sandbox_allow(sandbox, disk->image->path, FL_SANDBOX_READ);
        if (is_in_pieces(disk->image)) {
            g_autofree char *first = g_build_filename(disk->image->path, "000000", NULL);
            fl_sandbox_allow(sandbox, first, FL_SANDBOX_READ);
        }
    }
}

static void backup_close(FlSource *source)
{
    g_clear_pointer(&backup_of(source)->chains, fl_chains_free);
}

static void backup_clear(FlSource *source)
{
    backup_close(source);
    g_hash_table_unref(backup_of(source)->by_name);
    g_ptr_array_unref(backup_of(source)->disks);
    fl_stored_free(backup_of(source)->stored);
    fl_budget_unref(backup_of(source)->budget);
    g_mutex_clear(&backup_of(source)->lock);
}

static const FlSourceOps backup_ops = {
    .exports = backup_exports,
    .open = backup_open,
    .load = backup_load,
    .fault = backup_fault,
    .allow = backup_allow,
    .close = backup_close,
    .clear = backup_clear,
};

/* The kind */

static bool is_backup(const FlSourceSpec *spec)
{
    return spec->text != NULL && g_str_has_prefix(spec->text, PREFIX);
}

static GPtrArray *choose(const FlStored *stored, const Wanted *wanted, GError **error)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_local();

    return wanted->all ? fl_stored_all(stored, wanted->vm, error)
                       : fl_stored_choose(stored, wanted->vm, wanted->at, now, error);
}

/* Removes the images that cannot be opened from IMAGES. With ?all that is a warning, otherwise an
 * error. */
static bool leave_out(GPtrArray *images, const Wanted *wanted, GError **error)
{
    for (guint i = images->len; i-- > 0;) {
        g_autoptr(GError) why = NULL;

        if (fl_chains_can_open(images->pdata[i], &why))
            continue;
        if (!wanted->all)
            return fl_fail(error, PREFIX "%s: %s", wanted->folder, why->message);
        g_warning(PREFIX "%s: left out: %s", wanted->folder, why->message);
        g_ptr_array_remove_index(images, i);
    }
    return images->len > 0 ||
           fl_fail(error, PREFIX "%s: none of the stored backups can be shown", wanted->folder);
}

static GPtrArray *make_disks(const FlStored *stored, const GPtrArray *images)
{
    GPtrArray *disks = g_ptr_array_new_with_free_func(disk_free);

    for (guint i = 0; i < images->len; i++) {
        Disk *disk = g_new0(Disk, 1);

        disk->image = images->pdata[i];
        disk->name = g_strdup(disk->image->home + strlen(stored->top) + 1);
        g_ptr_array_add(disks, disk);
    }
    return disks;
}

static GHashTable *index_disks(const GPtrArray *disks)
{
    GHashTable *by_name = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < disks->len; i++)
        g_hash_table_insert(by_name, ((Disk *)disks->pdata[i])->name, disks->pdata[i]);
    return by_name;
}

/* Only one generation is shown, so report its faults at once. */
static bool open_all(FlSource *source, GError **error)
{
    const GPtrArray *disks = backup_of(source)->disks;

    for (guint i = 0; i < disks->len; i++) {
        const char *name = ((const Disk *)disks->pdata[i])->name;

        if (serve(source, name, error) == NULL)
            return false;
        leave(source, name);
    }
    return true;
}

/* Starts a daemon for those of IMAGES that need one. */
static bool start_chains(const FlStored *stored, const GPtrArray *images, FlChains **chains,
                         GError **error)
{
    g_autoptr(GPtrArray) files = g_ptr_array_new();

    for (guint i = 0; i < images->len; i++) {
        if (!is_in_pieces(images->pdata[i]))
            g_ptr_array_add(files, images->pdata[i]);
    }
    if (files->len > 0)
        *chains = fl_chains_new(stored, files, error);
    return files->len == 0 || *chains != NULL;
}

static FlSource *open_backup(const FlSourceSpec *spec, const FlSourceParams *params, GError **error)
{
    g_auto(Wanted) wanted = {0};
    g_autoptr(FlStored) stored = NULL;
    g_autoptr(GPtrArray) images = NULL;
    g_autoptr(FlChains) chains = NULL;
    g_autoptr(FlSource) source = NULL;
    g_autofree char *label = NULL;
    FlSource *below = NULL;
    BackupSource *backup;

    if (!parse(spec->text, &wanted, error) ||
        (stored = fl_stored_read(wanted.folder, params->budget, error)) == NULL ||
        (images = choose(stored, &wanted, error)) == NULL || !leave_out(images, &wanted, error) ||
        !start_chains(stored, images, &chains, error))
        return NULL;
    label = g_strconcat(PREFIX, stored->top, NULL);
    if (chains != NULL)
        below = fl_source_nbd_new_socket(fl_server_socket(fl_chains_server(chains)), label,
                                         params->budget);
    source = fl_source_alloc(sizeof(BackupSource), &backup_ops, label, below);
    backup = backup_of(source);
    g_mutex_init(&backup->lock);
    backup->budget = fl_budget_ref(params->budget);
    backup->disks = make_disks(stored, images);
    backup->by_name = index_disks(backup->disks);
    backup->stored = g_steal_pointer(&stored);
    backup->chains = g_steal_pointer(&chains);
    backup->all = wanted.all;
    if (!wanted.all && !open_all(source, error)) {
        g_prefix_error(error, "%s: ", label);
        return NULL;
    }
    return g_steal_pointer(&source);
}

static char *backup_label(const FlSourceSpec *spec)
{
    return g_strdup(spec->text);
}

const FlSourceKind fl_source_kind_backup = {
    .is = is_backup, .open = open_backup, .label = backup_label};
