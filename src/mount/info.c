/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "export-private.h"

#include "util/json.h"
#include "view/mapfile.h"

/* Adds statistics of one meta context. */
static void add_context(JsonBuilder *json, const FlExport *export, const char *context)
{
    const FlMap *map = fl_disk_maps_find(fl_disk_maps(export->disk), context);
    const GPtrArray *bitmaps = export->origin->bitmaps;

    json_builder_begin_object(json);
    fl_json_add_string(json, "context", context);
    fl_json_add_int(json, "extents", (gint64)fl_map_count(map));
    switch (fl_context_kind(context)) {
    case FL_CONTEXT_ALLOCATION:
        fl_json_add_int(json, "data_bytes", (gint64)fl_map_bytes(map, FL_ALLOC_ZERO, 0));
        break;
    case FL_CONTEXT_DIRTY:
        for (guint i = 0; i < bitmaps->len; i++) {
            const FlBitmap *bitmap = bitmaps->pdata[i];
            if (!g_str_equal(bitmap->context, context))
                continue;
            fl_json_add_string(json, "bitmap", bitmap->name);
            if (g_strcmp0(export->origin->chain.increment, context) == 0)
                fl_json_add_string(json, "base", export->origin->chain.base);
            if (bitmap->granularity != 0)
                fl_json_add_int(json, "granularity", (gint64)bitmap->granularity);
        }
        fl_json_add_int(json, "dirty_bytes", (gint64)fl_map_bytes(map, FL_DIRTY, FL_DIRTY));
        break;
    case FL_CONTEXT_DEPTH:
    case FL_CONTEXT_OTHER:
        break;
    }
    json_builder_end_object(json);
}

static void add_strings(JsonBuilder *json, const char *name, const GPtrArray *strings)
{
    if (strings == NULL || strings->len == 0)
        return;
    json_builder_set_member_name(json, name);
    json_builder_begin_array(json);
    for (guint i = 0; i < strings->len; i++) {
        g_autofree char *valid = g_utf8_make_valid(strings->pdata[i], -1);
        json_builder_add_string_value(json, valid);
    }
    json_builder_end_array(json);
}

/* Adds the contents of a partition, or of the disk itself; nothing if unknown. */
static void add_content(JsonBuilder *json, const FlContent *content)
{
    if (content->type == NULL)
        return;
    json_builder_set_member_name(json, "content");
    json_builder_begin_object(json);
    fl_json_add_string(json, "type", content->type);
    fl_json_add_string(json, "label", content->label);
    fl_json_add_string(json, "uuid", content->uuid);
    json_builder_end_object(json);
}

/* Adds the location of VOLUME on the disk. */
static void add_parts(JsonBuilder *json, const FlVolume *volume)
{
    json_builder_set_member_name(json, "parts");
    json_builder_begin_array(json);
    for (guint i = 0; i < volume->parts->len; i++) {
        const FlVolumePart *part = &g_array_index(volume->parts, FlVolumePart, i);

        json_builder_begin_object(json);
        fl_json_add_int(json, "length", (gint64)part->length);
        fl_json_add_int(json, "stripe", (gint64)part->stripe);
        json_builder_set_member_name(json, "areas");
        json_builder_begin_array(json);
        for (unsigned j = 0; j < part->n; j++)
            json_builder_add_int_value(json, (gint64)part->areas[j]);
        json_builder_end_array(json);
        json_builder_end_object(json);
    }
    json_builder_end_array(json);
}

static void add_volumes(JsonBuilder *json, const FlTable *table)
{
    const GPtrArray *volumes = fl_table_volumes(table);

    if (volumes != NULL && volumes->len > 0) {
        json_builder_set_member_name(json, "logical_volumes");
        json_builder_begin_array(json);
        for (guint i = 0; i < volumes->len; i++) {
            const FlVolume *volume = volumes->pdata[i];

            json_builder_begin_object(json);
            fl_json_add_string(json, "group", volume->group);
            fl_json_add_string(json, "name", volume->name);
            fl_json_add_string(json, "uuid", volume->uuid);
            fl_json_add_int(json, "size", (gint64)volume->size);
            add_parts(json, volume);
            add_content(json, &volume->content);
            json_builder_end_object(json);
        }
        json_builder_end_array(json);
    }
    add_strings(json, "logical_volumes_left_out", fl_table_volumes_left_out(table));
}

static void add_partitions(JsonBuilder *json, const FlTable *table)
{
    const GPtrArray *partitions = fl_table_partitions(table);

    add_content(json, fl_table_content(table));
    add_volumes(json, table);
    if (fl_table_kind(table) == NULL)
        return;
    fl_json_add_string(json, "partition_table", fl_table_kind(table));
    json_builder_set_member_name(json, "partitions");
    json_builder_begin_array(json);
    for (guint i = 0; i < partitions->len; i++) {
        const FlPartition *partition = partitions->pdata[i];

        json_builder_begin_object(json);
        fl_json_add_int(json, "number", partition->number);
        fl_json_add_int(json, "start", (gint64)partition->start);
        fl_json_add_int(json, "length", (gint64)partition->length);
        fl_json_add_string(json, "type", partition->type);
        fl_json_add_string(json, "uuid", partition->uuid);
        fl_json_add_string(json, "name", partition->name);
        add_content(json, &partition->content);
        json_builder_end_object(json);
    }
    json_builder_end_array(json);
    add_strings(json, "partitions_left_out", fl_table_left_out(table));
}

static void add_vm(JsonBuilder *json, const FlOrigin *origin)
{
    if (origin->vm.source == NULL)
        return;
    json_builder_set_member_name(json, "vm");
    json_builder_begin_object(json);
    fl_json_add_string(json, "uuid", origin->vm.uuid);
    fl_json_add_string(json, "name", origin->vm.name);
    fl_json_add_string(json, "source", origin->vm.source);
    json_builder_end_object(json);
}

static void add_block_size(JsonBuilder *json, const FlExportInfo *info)
{
    json_builder_set_member_name(json, "block_size");
    json_builder_begin_object(json);
    fl_json_add_int(json, "minimum", info->block_min);
    fl_json_add_int(json, "preferred", info->block_preferred);
    fl_json_add_int(json, "maximum", info->block_max);
    json_builder_end_object(json);
}

/* Adds the point in time, and which backups the increment continues. */
static void add_origin(JsonBuilder *json, const FlOrigin *origin)
{
    g_autofree char *time = fl_time_format(&origin->time);

    fl_json_add_string(json, "point_in_time", time);
    fl_json_add_string(json, "mode", origin->chain.mode);
    fl_json_add_string(json, "reason", origin->chain.reason);
    fl_json_add_string(json, "restore_point", origin->chain.restore_point);
    fl_json_add_string(json, "base", origin->chain.base);
    fl_json_add_string(json, "disk_id", origin->chain.disk_id);
    fl_json_add_string(json, "snapshot", origin->snapshot.id);
    add_vm(json, origin);
}

static void add_maps(JsonBuilder *json, const FlExport *export)
{
    const FlDiskMaps *maps = fl_disk_maps(export->disk);

    json_builder_set_member_name(json, "contexts");
    json_builder_begin_array(json);
    for (guint i = 0; i < maps->contexts->len; i++)
        add_context(json, export, maps->contexts->pdata[i]);
    json_builder_end_array(json);
    fl_json_add_string(json, "no_maps", export->origin->no_maps);
    if (maps->clean_refused)
        fl_json_add_string(json, "allocation",
                           "known for dirty ranges only: the server refuses the others");
    add_strings(json, "inconsistent_bitmaps", export->origin->inconsistent);
}

GBytes *fl_export_info_json(FlExport *export)
{
    g_autoptr(JsonBuilder) json = json_builder_new();
    const FlExportInfo *info = fl_disk_info(export->disk);

    json_builder_begin_object(json);
    fl_json_add_string(json, "source", fl_disk_label(export->disk));
    fl_json_add_string(json, "export", info->name);
    fl_json_add_string(json, "description", info->description);
    fl_json_add_string(json, "format", export->origin->format);
    fl_json_add_int(json, "size", (gint64)info->size);
    /* QEMU's image sizes are whole sectors: bytes past the end of the disk read as zeros. */
    if (export->has_qcow2 && info->size % 512 != 0)
        fl_json_add_int(json, "qcow2_size", (gint64)(info->size / 512 + 1) * 512);
    add_block_size(json, info);
    add_origin(json, export->origin);
    fl_split_add_info(export->split, json);
    add_maps(json, export);
    if (export->table != NULL)
        add_partitions(json, export->table);
    else if (export->table_fault != NULL)
        fl_json_add_string(json, "partitions_unknown", export->table_fault);
    json_builder_end_object(json);
    return fl_json_text(json);
}
