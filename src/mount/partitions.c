/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "export-private.h"
#include "view/raw.h"
#include "view/volume.h"

#include <string.h>

/* Maximum time that listing the folder waits for the table, in seconds. */
#define PATIENCE_SECONDS 5

/* State of reading the table of an export. */
struct FlTableReading {
    FlRead read;      /* first: the disk knows only this */
    FlExport *export; /* NULL once abandoned */
    FlDisk *disk;
    FlTable *table;
    FlView *view; /* the disk with its holes */
    char bytes[FL_TABLE_MAX];
    uint64_t offset; /* of the range that the table requests */
    size_t length, filled;
    guint timer;
};

static void reading_free(FlTableReading *reading)
{
    g_clear_handle_id(&reading->timer, g_source_remove);
    fl_disk_unref(reading->disk);
    fl_table_free(reading->table);
    fl_view_unref(reading->view);
    g_free(reading);
}

static FlView *make_partition(FlFile *file)
{
    const FlPartition *partition = file->partition;

    return fl_view_raw_new(fl_file_alloc(file), NULL, fl_file_disk_size(file), partition->start,
                           partition->length);
}

static FlView *make_volume(FlFile *file)
{
    const GArray *parts = file->volume->parts;

    return fl_view_volume_new(fl_file_alloc(file), (const FlVolumePart *)(const void *)parts->data,
                              parts->len);
}

static const FlFileKind partition_raw = {"part%s.raw", make_partition};
static const FlFileKind volume_raw = {"lv/%s.raw", make_volume};

/* As in /dev/mapper: a dash joins the two names, and dashes within a name are doubled. */
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
        FlFile *file = fl_file_new(export, &volume_raw, name);

        file->volume = volumes->pdata[i];
        fl_file_announce(file);
    }
}

/* Takes ownership of TABLE and adds the files for its contents. */
static void add_partitions(FlExport *export, FlTable *table)
{
    const GPtrArray *partitions = fl_table_partitions(table);

    export->table = table;
    for (guint i = 0; i < partitions->len; i++) {
        const FlPartition *partition = partitions->pdata[i];
        g_autofree char *number = g_strdup_printf("%u", partition->number);
        FlFile *file = fl_file_new(export, &partition_raw, number);

        file->partition = partition;
        fl_file_announce(file);
    }
    add_volumes(export, fl_table_volumes(table));
}

bool fl_export_is_complete(const FlExport *export)
{
    return export->table != NULL || export->table_fault != NULL;
}

/* Finishes: the table is known or, with FAULT, never will be. The outcome is final, because the
 * kernel caches replies. */
static void settle(FlTableReading *reading, const char *fault)
{
    FlExport *export = reading->export;

    reading->export = NULL;
    g_clear_handle_id(&reading->timer, g_source_remove);
    export->reading = NULL;
    export->table_fault = fault;
    /* Listing a thousand folders must not keep a thousand connections open. */
    if (export->opened == 0)
        fl_disk_rest(export->disk);
    if (fault != NULL)
        g_info("export \"%s\" of %s: %s", export->origin->folder, fl_disk_label(export->disk),
               fault);
    else
        add_partitions(export, g_steal_pointer(&reading->table));
    export->completing = false;
    fl_waiters_tell(export->waiters, export->disk, 0);
}

static gboolean too_late(gpointer opaque)
{
    FlTableReading *reading = opaque;

    reading->timer = 0;
    settle(reading, fl_table_stop(reading->table) ? NULL : "reading the partition table timed out");
    return G_SOURCE_REMOVE;
}

static void advance(FlTableReading *reading);

static void read_done(FlRead *read, errint_t result)
{
    FlTableReading *reading = (FlTableReading *)read;

    if (reading->export == NULL) {
        reading_free(reading);
    } else if (result == 0) {
        reading->filled += read->length;
        advance(reading);
    } else if (fl_table_skip(reading->table)) {
        reading->length = 0;
        advance(reading);
    } else {
        settle(reading, "the partition table cannot be read");
        reading_free(reading);
    }
}

/* Fills in the requested range up to the next part that must be read; false if there is none. */
static bool next_read(FlTableReading *reading)
{
    while (reading->filled < reading->length) {
        uint64_t at = reading->offset + reading->filled;
        FlPiece piece = fl_view_piece(reading->view, at);
        size_t length = (size_t)MIN(piece.end - at, reading->length - reading->filled);
        char *to = reading->bytes + reading->filled;

        if (piece.kind == FL_PIECE_DISK) {
            reading->read = (FlRead){
                .buf = to, .length = length, .offset = piece.disk_offset, .done = read_done};
            return true;
        }
        memset(to, 0, length);
        reading->filled += length;
    }
    return false;
}

static void advance(FlTableReading *reading)
{
    for (;;) {
        if (next_read(reading)) {
            fl_disk_read(reading->disk, &reading->read);
            return;
        }
        if (reading->length > 0)
            fl_table_feed(reading->table, reading->bytes);
        reading->filled = reading->length = 0;
        if (!fl_table_wants(reading->table, &reading->offset, &reading->length))
            break;
    }
    settle(reading, NULL);
    reading_free(reading);
}

static void maps_loaded(FlDisk *disk, errint_t result, void *opaque)
{
    FlExport *export = opaque;
    const FlExportInfo *info = fl_disk_info(disk);
    FlTableReading *reading;
    FlMap *alloc;

    if (result < 0) {
        export->completing = false;
        fl_waiters_tell(export->waiters, export->disk, result);
        return;
    }
    alloc = fl_disk_maps_find(fl_disk_maps(disk), FL_CONTEXT_NAME_ALLOCATION);
    reading = g_new0(FlTableReading, 1);
    reading->export = export;
    reading->disk = fl_disk_ref(disk);
    reading->table = fl_table_new(info->size, info->block_min);
    reading->view = fl_view_raw_new(alloc, NULL, info->size, 0, info->size);
    reading->timer = g_timeout_add_seconds(PATIENCE_SECONDS, too_late, reading);
    export->reading = reading;
    if (fl_disk_maps(disk)->clean_refused) {
        settle(reading, "the server refuses clean ranges, so the partition table cannot be read");
        reading_free(reading);
    } else {
        advance(reading);
    }
}

void fl_export_complete(FlExport *export, FlDiskLoaded done, void *opaque)
{
    if (fl_export_is_complete(export)) {
        done(export->disk, 0, opaque);
        return;
    }
    fl_waiters_add(export->waiters, done, opaque);
    if (export->completing)
        return;
    export->completing = true;
    fl_disk_load(export->disk, maps_loaded, export);
}

void fl_export_forget_table(FlExport *export)
{
    if (export->reading != NULL) {
        export->reading->export = NULL;
        g_clear_handle_id(&export->reading->timer, g_source_remove);
    }
    fl_waiters_free(export->waiters);
    fl_table_free(export->table);
}
