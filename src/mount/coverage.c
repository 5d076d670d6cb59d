/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "export-private.h"
#include "map/join.h"
#include "view/qcow2.h"

/* Whether the tables of a qcow2 of the bitmap, or of the whole disk, were read, which show what
 * became zeros. */
static bool zeros_delivered(const FlExport *export, const char *context)
{
    for (guint i = 0; i < export->files->len; i++) {
        const FlFile *file = export->files->pdata[i];

        if (file->tables != NULL &&
            (file->bitmap == NULL || g_strcmp0(file->context, context) == 0) &&
            fl_view_qcow2_tells_zeros(file->view, file->tables))
            return true;
    }
    return false;
}

/* Bytes needed, and how many of them read as zeros. */
typedef struct {
    uint64_t all, zeros;
} Wanted;

/* Adds those in [START, END): dirty ranges, or data if DIRTY is NULL. */
static void count(Wanted *wanted, const FlMap *alloc, const FlMap *dirty, uint64_t start,
                  uint64_t end)
{
    FlJoin join;
    FlRange range;

    fl_join_init(&join, alloc, dirty, end, start, FL_JOIN_DIRTY | FL_JOIN_ZERO);
    while (fl_join_next(&join, &range)) {
        uint64_t length = range.end - range.start;

        if (dirty != NULL ? !range.dirty : range.zero)
            continue;
        wanted->all += length;
        wanted->zeros += range.zero ? length : 0;
    }
}

FlCoverage fl_export_coverage(const FlExport *export, const char *bitmap)
{
    const FlDiskMaps *maps = fl_disk_maps(export->disk);
    const FlMap *alloc = fl_disk_maps_find(maps, FL_CONTEXT_NAME_ALLOCATION);
    const FlMap *dirty = bitmap != NULL ? fl_disk_maps_find(maps, bitmap) : NULL;
    uint64_t size = fl_disk_info(export->disk)->size, start, end = 0;
    FlCoverage coverage = {.wanted = size};
    Wanted read = {0}, whole = {0};

    if (dirty != NULL)
        coverage.wanted = fl_map_bytes(dirty, FL_DIRTY, FL_DIRTY);
    else if (alloc != NULL)
        coverage.wanted = fl_map_bytes(alloc, FL_ALLOC_ZERO, 0);
    /* Look at the maps only where something was read: they may have millions of extents, and this
     * may be called every second. */
    while (fl_cover_next(export->cover, end, &start, &end))
        count(&read, alloc, dirty, start, end);
    coverage.delivered = read.all;
    if (dirty != NULL && zeros_delivered(export, bitmap)) {
        count(&whole, alloc, dirty, 0, size);
        coverage.delivered += whole.zeros - read.zeros;
    }
    return coverage;
}
