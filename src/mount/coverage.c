/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "export-private.h"
#include "map/join.h"
#include "view/qcow2.h"

/* Whether a reader of a bitmap's qcow2 knows from its tables what became zeros. */
static bool zeros_delivered(const FlExport *export, const char *context)
{
    for (guint i = 0; i < export->files->len; i++) {
        const FlFile *file = export->files->pdata[i];

        if (file->tables != NULL && g_strcmp0(file->context, context) == 0)
            return fl_view_qcow2_tells_zeros(file->view, file->tables);
    }
    return false;
}

FlCoverage fl_export_coverage(const FlExport *export, const char *bitmap)
{
    const FlDiskMaps *maps = fl_disk_maps(export->disk);
    FlMap *dirty = bitmap != NULL ? fl_disk_maps_find(maps, bitmap) : NULL;
    bool zeros = dirty != NULL && zeros_delivered(export, bitmap);
    FlCoverage coverage = {0};
    FlJoin join;
    FlRange range;

    fl_join_init(&join, fl_disk_maps_find(maps, FL_ALLOCATION), dirty,
                 fl_disk_info(export->disk)->size, 0, FL_JOIN_DIRTY | FL_JOIN_ZERO);
    while (fl_join_next(&join, &range)) {
        uint64_t length = range.end - range.start;

        if (dirty != NULL ? !range.dirty : range.zero)
            continue;
        coverage.wanted += length;
        coverage.delivered +=
            range.zero && zeros ? length : fl_cover_bytes(export->cover, range.start, range.end);
    }
    return coverage;
}
