/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk in pieces as a source: stored, or shown, by a backup tool. */
#include "conn.h"
#include "folder.h"
#include "map/context.h"
#include "map/piece-name.h"
#include "source/kind.h"
#include "source/pieces/source.h"

typedef struct {
    FlSource source; /* first */
    FlPieceFolder *folder;
} PiecesSource;

static PiecesSource *pieces_of(FlSource *source)
{
    return (PiecesSource *)source;
}

/* The folder web/vda/split is disk vda. */
static char *name_of(const char *path)
{
    g_autofree char *name = g_path_get_basename(path);
    g_autofree char *parent = g_path_get_dirname(path);

    return g_str_equal(name, "split") ? g_path_get_basename(parent) : g_steal_pointer(&name);
}

static GPtrArray *pieces_exports(FlSource *source, const char *name, const FlWait *wait,
                                 GError **error)
{
    const FlPieceFolder *folder = pieces_of(source)->folder;
    GPtrArray *exports = g_ptr_array_new_with_free_func((GDestroyNotify)fl_export_info_free);
    g_autofree char *own = name_of(source->label);
    FlExportInfo *info = fl_export_info_new(own, fl_piece_folder_size(folder));

    info->mtime = fl_piece_folder_mtime(folder);
    info->ctime = fl_piece_folder_ctime(folder);
    g_ptr_array_add(info->contexts, g_strdup(FL_CONTEXT_NAME_ALLOCATION));
    g_ptr_array_add(exports, info);
    return exports;
}

static FlConn *pieces_open(FlSource *source, const FlExportInfo *info, const char *const *contexts,
                           const FlWait *wait, GError **error)
{
    FlPieceFolder *folder = pieces_of(source)->folder;

    return fl_piece_folder_check(folder, error) ? fl_pieces_conn_new(folder) : NULL;
}

static FlDiskMaps *pieces_load(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                               GError **error)
{
    FlMap *map = fl_piece_folder_map(pieces_of(source)->folder, wait->cancel, error);
    FlDiskMaps *maps;

    if (map == NULL)
        return NULL;
    maps = fl_disk_maps_new();
    fl_disk_maps_add(maps, FL_CONTEXT_NAME_ALLOCATION, map);
    return maps;
}

static void pieces_allow(const FlSource *source, FlSandbox *sandbox)
{
    char name[FL_PIECE_NAME_MAX];
    g_autofree char *first = NULL;

    fl_piece_name(name, 0);
    first = g_build_filename(source->label, name, NULL);
    fl_sandbox_allow(sandbox, source->label, FL_SANDBOX_READ);
    fl_sandbox_allow(sandbox, first, FL_SANDBOX_READ);
}

static void pieces_clear(FlSource *source)
{
    fl_piece_folder_unref(pieces_of(source)->folder);
}

static const FlSourceOps pieces_ops = {
    .exports = pieces_exports,
    .open = pieces_open,
    .load = pieces_load,
    .allow = pieces_allow,
    .clear = pieces_clear,
};

FlSource *fl_source_pieces_new(const char *path, FlBudget *budget, GError **error)
{
    g_autofree char *label = g_canonicalize_filename(path, NULL);
    FlPieceFolder *folder = fl_piece_folder_new(path, budget, error);
    FlSource *source;

    if (folder == NULL)
        return NULL;
    source = fl_source_alloc(sizeof(PiecesSource), &pieces_ops, label, NULL);
    pieces_of(source)->folder = folder;
    return source;
}

/* The kind */

static bool is_pieces(const FlSourceSpec *spec)
{
    return spec->text != NULL && g_file_test(spec->text, G_FILE_TEST_IS_DIR);
}

static FlSource *open_pieces(const FlSourceSpec *spec, const FlSourceParams *params, GError **error)
{
    return fl_source_pieces_new(spec->text, params->budget, error);
}

static char *pieces_label(const FlSourceSpec *spec)
{
    return g_canonicalize_filename(spec->text, NULL);
}

const FlSourceKind fl_source_kind_pieces = {
    .is = is_pieces, .open = open_pieces, .label = pieces_label, .one_disk = true};
