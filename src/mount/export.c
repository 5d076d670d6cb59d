/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/export.h"

#include "export-private.h"
#include "util/name.h"
#include "view/bytes.h"
#include "view/ddrescue.h"
#include "view/json.h"
#include "view/mapfile.h"
#include "view/pbm.h"
#include "view/qcow2.h"
#include "view/raw.h"

#include <inttypes.h>
#include <string.h>

FlOrigin *fl_origin_new(const char *source, const char *folder)
{
    FlOrigin *origin = g_new0(FlOrigin, 1);

    origin->source = g_strdup(source);
    origin->folder = g_strdup(folder);
    origin->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)fl_bitmap_free);
    origin->inconsistent = g_ptr_array_new_with_free_func(g_free);
    return origin;
}

void fl_origin_free(FlOrigin *origin)
{
    if (origin == NULL)
        return;
    g_free(origin->source);
    g_free(origin->folder);
    g_ptr_array_unref(origin->bitmaps);
    g_ptr_array_unref(origin->inconsistent);
    g_free(origin->format);
    g_free(origin->mode);
    g_free(origin->reason);
    g_free(origin->restore_point);
    g_free(origin->disk_id);
    g_free(origin->snapshot_id);
    g_free(origin->vm_uuid);
    g_free(origin->vm_name);
    g_free(origin->vm_source);
    g_free(origin->base);
    g_free(origin->increment);
    g_free(origin->scratch);
    fl_times_free(origin->times);
    g_free(origin->place);
    g_free(origin);
}

/* The kinds of files: a name and a constructor each. */

static FlMap *map_of(const FlFile *file)
{
    return file->context != NULL
               ? fl_disk_maps_find(fl_disk_maps(file->export->disk), file->context)
               : NULL;
}

static FlMap *alloc_of(const FlFile *file)
{
    return fl_disk_maps_find(fl_disk_maps(file->export->disk), FL_CONTEXT_NAME_ALLOCATION);
}

static uint64_t size_of(const FlFile *file)
{
    return fl_disk_info(file->export->disk)->size;
}

static FlView *make_raw(FlFile *file)
{
    FlMap *dirty = file->bitmap != NULL ? map_of(file) : NULL;

    return fl_view_raw_new(alloc_of(file), dirty, size_of(file), 0, size_of(file));
}

static FlView *make_partition(FlFile *file)
{
    const FlPartition *partition = file->partition;

    return fl_view_raw_new(alloc_of(file), NULL, size_of(file), partition->start,
                           partition->length);
}

static FlView *make_volume(FlFile *file)
{
    const GArray *parts = file->volume->parts;

    return fl_view_volume_new(alloc_of(file), (const FlVolumePart *)(const void *)parts->data,
                              parts->len);
}

static FlView *make_map(FlFile *file)
{
    return fl_view_map_new(map_of(file), fl_context_kind(file->context));
}

static FlView *make_json(FlFile *file)
{
    FlMap *dirty = file->bitmap != NULL ? map_of(file) : NULL;

    return fl_view_json_new(alloc_of(file), dirty, size_of(file));
}

static FlView *make_ddrescue(FlFile *file)
{
    return fl_view_ddrescue_new(map_of(file));
}

static FlView *make_pbm(FlFile *file)
{
    return fl_view_pbm_new(map_of(file), file->bitmap->granularity, file->context);
}

/* The most ranges of what was delivered that are kept apart, of a disk and of a file's tables: 64
 * MiB of memory at worst, for 128 GiB read in the worst order, 64 KiB here and there. */
#define COVER_MAX  (2u << 20)
#define TABLES_MAX (64u << 10)
/* The same where there is no commit to allow, only progress to show: 32 KiB. */
#define PROGRESS_MAX (1u << 10)

/* What an increment is written over; NULL for none. */
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
    FlMap *dirty = file->bitmap != NULL ? map_of(file) : NULL;
    uint64_t granularity = file->bitmap != NULL ? file->bitmap->granularity : 0;
    bool exact = dirty != NULL && fl_disk_maps(export->disk)->clean_refused;
    g_autoptr(GError) error = NULL;
    FlView *view = try_qcow2(export, alloc_of(file), dirty, granularity, exact, &error);

    if (view == NULL)
        g_warning("%s of export \"%s\": %s", file->path, export->origin->folder, error->message);
    return view;
}

static FlView *make_info(FlFile *file)
{
    g_autoptr(GBytes) bytes = fl_export_info_json(file->export);

    return fl_view_bytes_new(bytes);
}

typedef struct FlFileKind {
    const char *path; /* %s stands for the name of the bitmap or context, or a number */
    FlView *(*make)(FlFile *file);
} Kind;

static const Kind disk_raw = {"disk.raw", make_raw}, info_json = {"info.json", make_info};
static const Kind partition_raw = {"part%s.raw", make_partition};
static const Kind volume_raw = {"lv/%s.raw", make_volume};
static const Kind disk_qcow2 = {"disk.qcow2", make_qcow2};
static const Kind dirty_qcow2 = {"dirty/%s.qcow2", make_qcow2};
static const Kind alloc_kinds[] = {{"disk.map", make_map}, {"disk.json", make_json}};
static const Kind depth_map = {"depth.map", make_map}, other_map = {"maps/%s.map", make_map};
static const Kind dirty_kinds[] = {
    {"dirty/%s.raw", make_raw},           {"dirty/%s.map", make_map}, {"dirty/%s.json", make_json},
    {"dirty/%s.ddrescue", make_ddrescue}, {"dirty/%s.pbm", make_pbm},
};

/* NAME is needed where the path has room for it. */
static FlFile *new_file(FlExport *export, const Kind *kind, const char *name)
{
    FlFile *file = g_new0(FlFile, 1);
    g_autofree char *safe = NULL;
    g_auto(GStrv) parts = g_strsplit(kind->path, "%s", 2);

    if (parts[1] != NULL)
        safe = fl_name_encode(name);
    file->export = export;
    file->kind = kind;
    file->path = g_strconcat(parts[0], safe != NULL ? safe : "", parts[1], NULL);
    g_ptr_array_add(export->files, file);
    return file;
}

static void add_file(FlExport *export, const Kind *kind, const char *context,
                     const FlBitmap *bitmap)
{
    FlFile *file = new_file(export, kind, bitmap != NULL ? bitmap->name : context);

    file->context = context;
    file->bitmap = bitmap;
}

/* As in /dev/mapper: a dash is between the two names, and one in a name is doubled. */
static char *volume_name(const FlVolume *volume)
{
    g_auto(GStrv) group = g_strsplit(volume->group, "-", -1);
    g_auto(GStrv) name = g_strsplit(volume->name, "-", -1);
    g_autofree char *safe_group = g_strjoinv("--", group), *safe_name = g_strjoinv("--", name);

    return g_strconcat(safe_group, "-", safe_name, NULL);
}

static void add_volumes(FlExport *export, const GPtrArray *volumes)
{
    for (guint i = 0; volumes != NULL && i < volumes->len; i++) {
        g_autofree char *name = volume_name(volumes->pdata[i]);
        FlFile *file = new_file(export, &volume_raw, name);

        file->volume = volumes->pdata[i];
        if (export->added != NULL)
            export->added(export, file, export->opaque);
    }
}

void fl_export_add_partitions(FlExport *export, FlTable *table)
{
    const GPtrArray *partitions = fl_table_partitions(table);

    export->table = table;
    for (guint i = 0; i < partitions->len; i++) {
        const FlPartition *partition = partitions->pdata[i];
        g_autofree char *number = g_strdup_printf("%u", partition->number);
        FlFile *file = new_file(export, &partition_raw, number);

        file->partition = partition;
        if (export->added != NULL)
            export->added(export, file, export->opaque);
    }
    add_volumes(export, fl_table_volumes(table));
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

/* Whether QEMU's limits allow a qcow2 of this disk: the same for whatever there is on it. */
static bool can_be_qcow2(const FlExport *export)
{
    g_autoptr(FlMap) clean = fl_map_new_uniform(fl_disk_info(export->disk)->size, 0);
    g_autoptr(GError) error = NULL;
    g_autoptr(FlView) view = try_qcow2(export, NULL, clean, 0, false, &error);

    if (view == NULL)
        g_warning("export \"%s\" has no qcow2 files: %s", export->origin->folder, error->message);
    return view != NULL;
}

static void file_free(gpointer data)
{
    FlFile *file = data;

    fl_view_unref(file->view);
    fl_streams_free(file->streams);
    fl_cover_free(file->tables);
    g_free(file->path);
    g_free(file);
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
    export->files = g_ptr_array_new_with_free_func(file_free);
    export->cover = fl_cover_new(origin->snapshot ? COVER_MAX : PROGRESS_MAX);
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

const char *fl_file_path(const FlFile *file)
{
    return file->path;
}

bool fl_file_is_newer(const FlFile *file)
{
    return file->kind == &info_json;
}

const FlView *fl_file_view(FlFile *file)
{
    if (file->view == NULL)
        file->view = file->kind->make(file);
    return file->view;
}

/* Coverage */

static void delivered(void *opaque, const FlPiece *piece)
{
    FlFile *file = opaque;
    uint64_t length = piece->end - piece->start;

    if (piece->kind == FL_PIECE_DISK || piece->kind == FL_PIECE_ZERO) {
        fl_cover_add(file->export->cover, piece->disk_offset, piece->disk_offset + length);
    } else if (piece->kind == FL_PIECE_MADE && file->kind->make == make_qcow2) {
        if (file->tables == NULL)
            file->tables = fl_cover_new(file->export->origin->snapshot ? TABLES_MAX : PROGRESS_MAX);
        fl_cover_add(file->tables, piece->start, piece->end);
    }
}

FlReadSource fl_file_source(FlFile *file)
{
    FlExport *export = file->export;

    if (file->streams == NULL)
        file->streams = fl_streams_new();
    return (FlReadSource){
        .view = fl_file_view(file),
        .disk = export->disk,
        .blocks = export->blocks,
        .streams = file->streams,
        .readahead = export->options->readahead,
        .delivered = delivered,
        .opaque = file,
    };
}

void fl_file_opened(FlFile *file)
{
    file->opened++;
    file->export->opened++;
}

void fl_file_closed(FlFile *file)
{
    file->export->opened--;
    if (--file->opened == 0)
        g_clear_pointer(&file->streams, fl_streams_free);
    if (file->export->opened == 0)
        fl_blocks_clear(file->export->blocks);
}

static void add_number(GHashTable *xattrs, const char *name, uint64_t number)
{
    g_hash_table_insert(xattrs, g_strdup(name), g_strdup_printf("%" PRIu64, number));
}

static void add_text(GHashTable *xattrs, const char *name, const char *text)
{
    if (text != NULL)
        g_hash_table_insert(xattrs, g_strdup(name), g_strdup(text));
}

static void add_content(GHashTable *xattrs, const FlContent *content)
{
    add_text(xattrs, "content_type", content->type);
    add_text(xattrs, "content_label", content->label);
    add_text(xattrs, "content_uuid", content->uuid);
}

GHashTable *fl_file_xattrs(FlFile *file)
{
    const FlOrigin *origin = file->export->origin;
    GHashTable *xattrs = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    FlMap *map = map_of(file);

    add_number(xattrs, "disk_size", size_of(file));
    g_hash_table_insert(xattrs, g_strdup("point_in_time"), fl_time_format(&origin->time));
    add_text(xattrs, "context", file->context);
    if (file->bitmap != NULL && map != NULL) {
        add_number(xattrs, "dirty_bytes", fl_map_bytes(map, FL_DIRTY, FL_DIRTY));
        if (file->bitmap->granularity != 0)
            add_number(xattrs, "granularity", file->bitmap->granularity);
    }
    if (file->partition != NULL) {
        add_number(xattrs, "start", file->partition->start);
        add_number(xattrs, "length", file->partition->length);
        add_text(xattrs, "type", file->partition->type);
        add_text(xattrs, "uuid", file->partition->uuid);
        add_text(xattrs, "name", file->partition->name);
        add_content(xattrs, &file->partition->content);
    }
    if (file->volume != NULL) {
        add_text(xattrs, "uuid", file->volume->uuid);
        add_content(xattrs, &file->volume->content);
    }
    add_text(xattrs, "restore_point", origin->restore_point);
    add_text(xattrs, "disk_id", origin->disk_id);
    add_text(xattrs, "snapshot", origin->snapshot_id);
    add_text(xattrs, "vm_uuid", origin->vm_uuid);
    add_text(xattrs, "vm_name", origin->vm_name);
    /* Other bitmaps than the increment's are relative to what their owners know. */
    if (file->bitmap == NULL || g_strcmp0(file->context, origin->increment) == 0)
        add_text(xattrs, "base", origin->base);
    return xattrs;
}
