/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/qcow2-image.h"

#include "map/join.h"
#include "util/size.h"

typedef struct {
    FlQcow2Clusters *clusters;
    uint64_t cluster_size, disk_size;
    bool keep_zeros; /* there may be a backing file whose data zeros must hide */

    /* State of the current cluster, while only a part of it was seen. */
    bool dirty, zero, clean_data;
} Scan;

static void add(Scan *scan, uint64_t first, uint64_t end, bool dirty, bool zero)
{
    uint64_t entries = fl_qcow2_entries(scan->cluster_size);

    if (!dirty || (zero && !scan->keep_zeros))
        return;
    fl_runs_add(zero ? &scan->clusters->zero : &scan->clusters->data, first, end);
    fl_runs_add(&scan->clusters->tables, first / entries, (end - 1) / entries + 1);
}

static void begin_cluster(Scan *scan)
{
    scan->dirty = false;
    scan->zero = true;
    scan->clean_data = false;
}

/* Accounts for [START, END), which lies in one cluster. */
static void add_part(Scan *scan, uint64_t start, uint64_t end, const FlRange *range)
{
    uint64_t cluster = start / scan->cluster_size;

    scan->dirty |= range->dirty;
    scan->zero &= range->zero;
    scan->clean_data |= !range->dirty && !range->zero;
    if (end % scan->cluster_size != 0 && end != scan->disk_size)
        return;

    add(scan, cluster, cluster + 1, scan->dirty, scan->zero);
    scan->clusters->needs_clean |= scan->dirty && scan->clean_data;
    begin_cluster(scan);
}

static void add_range(Scan *scan, const FlRange *range)
{
    uint64_t size = scan->cluster_size, at = range->start;
    uint64_t last = range->end == scan->disk_size ? fl_div_up(range->end, size) : range->end / size;

    if (at % size != 0) {
        uint64_t end = MIN(range->end, at - at % size + size);
        add_part(scan, at, end, range);
        at = end;
    }
    if (at < range->end && at / size < last) {
        add(scan, at / size, last, range->dirty, range->zero);
        at = MIN(last * size, range->end);
    }
    if (at < range->end)
        add_part(scan, at, range->end, range);
}

void fl_qcow2_clusters_scan(FlQcow2Clusters *clusters, const FlQcow2Params *params,
                            uint64_t cluster_size)
{
    Scan scan = {
        .clusters = clusters,
        .cluster_size = cluster_size,
        .disk_size = params->disk_size,
        .keep_zeros = params->dirty != NULL || params->backing != NULL,
    };
    FlJoin join;
    FlRange range;

    begin_cluster(&scan);
    fl_join_init(&join, params->alloc, params->dirty, params->disk_size, 0,
                 FL_JOIN_DIRTY | FL_JOIN_ZERO);
    while (fl_join_next(&join, &range))
        add_range(&scan, &range);

    fl_runs_trim(&clusters->data);
    fl_runs_trim(&clusters->zero);
    fl_runs_trim(&clusters->tables);
}

void fl_qcow2_clusters_clear(FlQcow2Clusters *clusters)
{
    fl_runs_clear(&clusters->data);
    fl_runs_clear(&clusters->zero);
    fl_runs_clear(&clusters->tables);
    clusters->needs_clean = false;
}
