/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "export-private.h"
#include "map/join.h"

/* Whether all tables of a bitmap's qcow2 reached a reader. They come before all data. */
static bool tables_delivered(const FlExport *export, const char *context)
{
    for (guint i = 0; i < export->files->len; i++) {
        const FlFile *file = export->files->pdata[i];
        FlPiece last;

        if (file->tables == NULL || g_strcmp0(file->context, context) != 0)
            continue;
        last = fl_view_piece(file->view, 0);
        while (last.kind == FL_PIECE_MADE && last.end < file->view->size)
            last = fl_view_piece(file->view, last.end);
        if (last.kind == FL_PIECE_MADE)
            last.start = last.end;
        return fl_cover_bytes(file->tables, 0, last.start) == last.start;
    }
    return false;
}

FlCoverage fl_export_coverage(const FlExport *export, const char *bitmap)
{
    const FlDiskMaps *maps = fl_disk_maps(export->disk);
    FlMap *dirty = bitmap != NULL ? fl_disk_maps_find(maps, bitmap) : NULL;
    bool tables = dirty != NULL && tables_delivered(export, bitmap);
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
            range.zero && tables ? length : fl_cover_bytes(export->cover, range.start, range.end);
    }
    return coverage;
}
