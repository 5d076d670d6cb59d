/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "figures.h"

#include "export-private.h"
#include "view/mapfile.h"

/* The increment's map, or that of the only bitmap; NULL if there is none or a choice. */
static FlMap *dirty_map(const FlExport *export, const FlDiskMaps *maps)
{
    FlMap *found = NULL;

    if (export->origin->increment != NULL)
        return fl_disk_maps_find(maps, export->origin->increment);
    for (guint i = 0; i < maps->contexts->len; i++) {
        if (fl_context_kind(maps->contexts->pdata[i]) != FL_CONTEXT_DIRTY)
            continue;
        if (found != NULL)
            return NULL;
        found = maps->maps->pdata[i];
    }
    return found;
}

static void collect_from_maps(FlFigures *figures, const FlExport *export, const FlDiskMaps *maps)
{
    FlMap *alloc = fl_disk_maps_find(maps, FL_ALLOCATION), *dirty = dirty_map(export, maps);

    if (alloc != NULL)
        figures->data_bytes = fl_map_bytes(alloc, FL_ALLOC_ZERO, 0);
    if (dirty != NULL)
        figures->dirty_bytes = fl_map_bytes(dirty, FL_DIRTY, FL_DIRTY);
    if (export->origin->snapshot)
        fl_export_coverage(export, &figures->wanted_bytes, &figures->covered_bytes);
}

void fl_figures_collect(FlFigures *figures, FlExport *export)
{
    const FlDiskStats *stats = fl_disk_stats(export->disk);
    const FlDiskMaps *maps = fl_disk_maps(export->disk);
    const FlOrigin *origin = export->origin;

    *figures = (FlFigures){
        .size = fl_disk_info(export->disk)->size,
        .up = fl_disk_failure(export->disk) == NULL,
        .open_files = export->opened,
        .connections = stats->connections,
        .in_flight = stats->in_flight,
        .waiting = stats->queued,
        .bytes_read = stats->bytes_read,
        .requests = stats->requests,
        .errors = stats->errors,
        .reconnects = stats->reconnects,
        .data_bytes = FL_UNKNOWN,
        .dirty_bytes = FL_UNKNOWN,
        .wanted_bytes = FL_UNKNOWN,
        .covered_bytes = FL_UNKNOWN,
        .scratch_used = FL_UNKNOWN,
        .scratch_limit = FL_UNKNOWN,
    };
    if (maps != NULL)
        collect_from_maps(figures, export, maps);
    if (origin->scratch_use != NULL)
        origin->scratch_use(origin->scratch, &figures->scratch_used, &figures->scratch_limit);
}
