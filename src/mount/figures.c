/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "figures.h"

#include "export-private.h"
#include "view/mapfile.h"

/* The context of the increment, or of the only bitmap; NULL if there is none or more than one. */
static const char *dirty_context(const FlExport *export, const FlDiskMaps *maps)
{
    const char *found = NULL;

    if (export->origin->chain.increment != NULL)
        return export->origin->chain.increment;
    for (guint i = 0; i < maps->contexts->len; i++) {
        if (fl_context_kind(maps->contexts->pdata[i]) != FL_CONTEXT_DIRTY)
            continue;
        if (found != NULL)
            return NULL;
        found = maps->contexts->pdata[i];
    }
    return found;
}

static void collect_from_maps(FlFigures *figures, const FlExport *export, const FlDiskMaps *maps)
{
    const char *dirty = dirty_context(export, maps);
    FlCoverage data = fl_export_coverage(export, NULL), changed = {0};

    figures->data_bytes = data.wanted;
    figures->data_covered = data.delivered;
    if (dirty != NULL) {
        changed = fl_export_coverage(export, dirty);
        figures->dirty_bytes = changed.wanted;
        figures->dirty_covered = changed.delivered;
    }
    if (export->origin->snapshot.taken) {
        FlCoverage wanted = export->origin->chain.increment != NULL ? changed : data;

        figures->wanted_bytes = wanted.wanted;
        figures->covered_bytes = wanted.delivered;
        figures->pieces_changed = fl_split_changed(export->split);
        figures->pieces_read = fl_split_changed_read(export->split);
    }
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
        .read_rate = fl_rate_get(&stats->rate, g_get_monotonic_time()),
        .data_bytes = FL_UNKNOWN,
        .data_covered = FL_UNKNOWN,
        .dirty_bytes = FL_UNKNOWN,
        .dirty_covered = FL_UNKNOWN,
        .wanted_bytes = FL_UNKNOWN,
        .covered_bytes = FL_UNKNOWN,
        .pieces_changed = FL_UNKNOWN,
        .pieces_read = FL_UNKNOWN,
        .scratch_used = FL_UNKNOWN,
        .scratch_limit = FL_UNKNOWN,
    };
    if (maps != NULL)
        collect_from_maps(figures, export, maps);
    if (origin->snapshot.scratch_use != NULL)
        origin->snapshot.scratch_use(origin->snapshot.scratch, &figures->scratch_used,
                                     &figures->scratch_limit);
}
