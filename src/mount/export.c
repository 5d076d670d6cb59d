/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/export.h"

#include "export-private.h"
#include "view/bytes.h"
#include "view/ddrescue.h"
#include "view/json.h"
#include "view/mapfile.h"
#include "view/pbm.h"
#include "view/qcow2.h"
#include "view/raw.h"

#include <string.h>

/* The kinds of files: a name and a constructor each. */

static FlView *make_raw(FlFile *file)
{
    FlMap *dirty = file->bitmap != NULL ? fl_file_map(file) : NULL;

    return fl_view_raw_new(fl_file_alloc(file), dirty, fl_file_disk_size(file), 0,
                           fl_file_disk_size(file));
}

static FlView *make_map(FlFile *file)
{
    return fl_view_map_new(fl_file_map(file), fl_context_kind(file->context));
}

static FlView *make_json(FlFile *file)
{
    FlMap *dirty = file->bitmap != NULL ? fl_file_map(file) : NULL;

    return fl_view_json_new(fl_file_alloc(file), dirty, fl_file_disk_size(file));
}

static FlView *make_ddrescue(FlFile *file)
{
    return fl_view_ddrescue_new(fl_file_map(file));
}

static FlView *make_pbm(FlFile *file)
{
    return fl_view_pbm_new(fl_file_map(file), file->bitmap->granularity, file->context);
}

/* Maximum number of separate delivered ranges of a disk: 64 MiB of memory at worst, for 128 GiB
 * read in scattered blocks of 64 KiB. */
#define COVER_MAX (2u << 20)

/* The backing file of increments; NULL for none. */
static const char *backing_of(const FlViewOptions *options)
{
    if (options->backing == NULL)
        return "../disk.raw";
    return g_str_equal(options->backing, "none") ? NULL : options->backing;
}

static FlView *try_qcow2(const FlExport *export, FlMap *alloc, FlMap *dirty, uint64_t granularity,
                         bool exact, GError **error)
{
    const FlViewOptions *options = export->options;
    const char *backing = dirty != NULL ? backing_of(options) : NULL;
    const char *format = options->backing_fmt;
    FlQcow2Params params = {
        .alloc = alloc,
        .dirty = dirty,
        .disk_size = fl_disk_info(export->disk)->size,
        .granularity = granularity,
        .cluster_size = options->cluster_size,
        .backing = backing,
        .exact = exact,
    };

    if (backing != NULL)
        params.backing_fmt = format == NULL && options->backing == NULL ? "raw" : format;
    return fl_view_qcow2_new(&params, error);
}

static FlView *make_qcow2(FlFile *file)
{
    FlExport *export = file->export;
    FlMap *dirty = file->bitmap != NULL ? fl_file_map(file) : NULL;
    uint64_t granularity = file->bitmap != NULL ? file->bitmap->granularity : 0;
    bool exact = dirty != NULL && fl_disk_maps(export->disk)->clean_refused;
    g_autoptr(GError) error = NULL;
    FlView *view = try_qcow2(export, fl_file_alloc(file), dirty, granularity, exact, &error);

    if (view == NULL)
        g_warning("%s of export \"%s\": %s", file->path, export->origin->folder, error->message);
    return view;
}

static FlView *make_info(FlFile *file)
{
    g_autoptr(GBytes) bytes = fl_export_info_json(file->export);

    return fl_view_bytes_new(bytes);
}

static const FlFileKind disk_raw = {"disk.raw", make_raw, .is_disk = true},
                        info_json = {"info.json", make_info, .is_newer = true};
static const FlFileKind disk_qcow2 = {"disk.qcow2", make_qcow2, .has_tables = true};
static const FlFileKind dirty_qcow2 = {"dirty/%s.qcow2", make_qcow2, .has_tables = true};
static const FlFileKind alloc_kinds[] = {{"disk.map", make_map}, {"disk.json", make_json}};
static const FlFileKind depth_map = {"depth.map", make_map}, other_map = {"maps/%s.map", make_map};
static const FlFileKind dirty_kinds[] = {
    {"dirty/%s.raw", make_raw},           {"dirty/%s.map", make_map}, {"dirty/%s.json", make_json},
    {"dirty/%s.ddrescue", make_ddrescue}, {"dirty/%s.pbm", make_pbm},
};

static void add_file(FlExport *export, const FlFileKind *kind, const char *context,
                     const FlBitmap *bitmap)
{
    FlFile *file = fl_file_new(export, kind, bitmap != NULL ? bitmap->name : context);

    file->context = context;
    file->bitmap = bitmap;
}

static const FlBitmap *bitmap_of(FlExport *export, const char *context)
{
    GPtrArray *known = export->origin->bitmaps;

    for (guint i = 0; i < known->len; i++) {
        const FlBitmap *bitmap = known->pdata[i];
        if (g_str_equal(bitmap->context, context))
            return bitmap;
    }
    g_ptr_array_add(known, fl_bitmap_new(NULL, context, 0));
    return known->pdata[known->len - 1];
}

static void add_context(FlExport *export, const char *context)
{
    switch (fl_context_kind(context)) {
    case FL_CONTEXT_ALLOCATION:
        for (guint i = 0; i < G_N_ELEMENTS(alloc_kinds); i++)
            add_file(export, &alloc_kinds[i], context, NULL);
        break;
    case FL_CONTEXT_DIRTY:
        for (guint i = 0; i < G_N_ELEMENTS(dirty_kinds); i++)
            add_file(export, &dirty_kinds[i], context, bitmap_of(export, context));
        if (export->has_qcow2)
            add_file(export, &dirty_qcow2, context, bitmap_of(export, context));
        break;
    case FL_CONTEXT_DEPTH:
        add_file(export, &depth_map, context, NULL);
        break;
    case FL_CONTEXT_OTHER:
        add_file(export, &other_map, context, NULL);
        break;
    }
}

/* Whether a qcow2 of this disk fits QEMU's limits, regardless of its contents. */
static bool can_be_qcow2(const FlExport *export)
{
    g_autoptr(FlMap) clean = fl_map_new_uniform(fl_disk_info(export->disk)->size, 0);
    g_autoptr(GError) error = NULL;
    g_autoptr(FlView) view = try_qcow2(export, NULL, clean, 0, false, &error);

    if (view == NULL)
        g_warning("export \"%s\" has no qcow2 files: %s", export->origin->folder, error->message);
    return view != NULL;
}

FlExport *fl_export_new(FlDisk *disk, FlOrigin *origin, FlCache *cache,
                        const FlViewOptions *options)
{
    FlExport *export = g_new0(FlExport, 1);
    const FlExportInfo *info = fl_disk_info(disk);

    export->disk = fl_disk_ref(disk);
    export->origin = origin;
    export->options = options;
    export->blocks = fl_blocks_new(cache, disk);
    export->files = g_ptr_array_new_with_free_func((GDestroyNotify)fl_file_free);
    export->cover = fl_cover_new(origin->snapshot.taken ? COVER_MAX : FL_PROGRESS_MAX);
    export->waiters = fl_waiters_new();
    export->has_qcow2 = can_be_qcow2(export);
    export->split = fl_split_new(export);
    add_file(export, &disk_raw, NULL, NULL);
    if (export->has_qcow2)
        add_file(export, &disk_qcow2, NULL, NULL);
    add_file(export, &info_json, NULL, NULL);
    for (guint i = 0; i < info->contexts->len; i++)
        add_context(export, info->contexts->pdata[i]);
    return export;
}

void fl_export_free(FlExport *export)
{
    if (export == NULL)
        return;
    fl_export_forget_table(export);
    fl_split_free(export->split);
    g_ptr_array_unref(export->files);
    fl_blocks_free(export->blocks);
    fl_disk_unref(export->disk);
    fl_origin_free(export->origin);
    fl_cover_free(export->cover);
    g_free(export);
}

FlDisk *fl_export_disk(const FlExport *export)
{
    return export->disk;
}

const FlOrigin *fl_export_origin(const FlExport *export)
{
    return export->origin;
}

FlSplit *fl_export_split(const FlExport *export)
{
    return export->split;
}

const GPtrArray *fl_export_files(const FlExport *export)
{
    return export->files;
}

void fl_export_watch(FlExport *export, FlFileAdded added, void *opaque)
{
    export->added = added;
    export->opaque = opaque;
}
