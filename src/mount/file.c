/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "export-private.h"
#include "util/name.h"

#include <inttypes.h>

/* Maximum number of separate delivered ranges of a file's tables. */
#define TABLES_MAX (64u << 10)

FlFile *fl_file_new(FlExport *export, const FlFileKind *kind, const char *name)
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

void fl_file_announce(FlFile *file)
{
    FlExport *export = file->export;

    if (export->added != NULL)
        export->added(export, file, export->opaque);
}

void fl_file_free(FlFile *file)
{
    fl_view_unref(file->view);
    fl_streams_free(file->streams);
    fl_cover_free(file->tables);
    g_free(file->path);
    g_free(file);
}

FlMap *fl_file_map(const FlFile *file)
{
    return file->context != NULL
               ? fl_disk_maps_find(fl_disk_maps(file->export->disk), file->context)
               : NULL;
}

FlMap *fl_file_alloc(const FlFile *file)
{
    return fl_disk_maps_find(fl_disk_maps(file->export->disk), FL_CONTEXT_NAME_ALLOCATION);
}

uint64_t fl_file_disk_size(const FlFile *file)
{
    return fl_disk_info(file->export->disk)->size;
}

char *fl_time_format(const struct timespec *time)
{
    g_autoptr(GDateTime) seconds = g_date_time_new_from_unix_utc(time->tv_sec);
    g_autoptr(GDateTime) exact = g_date_time_add(seconds, time->tv_nsec / 1000);

    return g_date_time_format_iso8601(exact);
}

const char *fl_file_path(const FlFile *file)
{
    return file->path;
}

bool fl_file_is_newer(const FlFile *file)
{
    return file->kind->is_newer;
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
    } else if (piece->kind == FL_PIECE_MADE && file->kind->has_tables) {
        if (file->tables == NULL)
            file->tables =
                fl_cover_new(file->export->origin->snapshot.taken ? TABLES_MAX : FL_PROGRESS_MAX);
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

void fl_file_skipped(FlFile *file, uint64_t from, uint64_t to)
{
    if (file->kind->is_disk && from < to && to <= fl_file_disk_size(file))
        fl_cover_add(file->export->cover, from, to);
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
    FlMap *map = fl_file_map(file);

    add_number(xattrs, "disk_size", fl_file_disk_size(file));
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
    add_text(xattrs, "restore_point", origin->chain.restore_point);
    add_text(xattrs, "disk_id", origin->chain.disk_id);
    add_text(xattrs, "snapshot", origin->snapshot.id);
    add_text(xattrs, "vm_uuid", origin->vm.uuid);
    add_text(xattrs, "vm_name", origin->vm.name);
    /* The base of other bitmaps is known only to their owners. */
    if (file->bitmap == NULL || g_strcmp0(file->context, origin->chain.increment) == 0)
        add_text(xattrs, "base", origin->chain.base);
    return xattrs;
}
