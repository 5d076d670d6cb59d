/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/qcow2-image.h"

#include "util/size.h"

/* QEMU's block/qcow2.h: QCOW_MAX_L1_SIZE, QCOW_MAX_REFTABLE_SIZE, QCOW_MAX_CLUSTER_OFFSET. */
#define MAX_L1_BYTES             (32u << 20)
#define MAX_REFCOUNT_TABLE_BYTES (8u << 20)
#define MAX_FILE_BYTES           (UINT64_C(1) << 56)

#define SECTOR 512u /* the virtual size is a multiple of this */

const char *fl_qcow2_layout_init(FlQcow2Layout *layout, uint64_t disk_size, uint64_t cluster_size)
{
    uint64_t clusters = fl_div_up(disk_size, cluster_size);

    *layout = (FlQcow2Layout){
        .cluster_size = cluster_size,
        .virtual_size = fl_div_up(disk_size, SECTOR) * SECTOR,
        .l1_entries = fl_div_up(clusters, fl_qcow2_entries(cluster_size)),
    };
    if (layout->l1_entries * 8 > MAX_L1_BYTES)
        return "its L1 table would be larger than 32 MiB";
    return NULL;
}

const char *fl_qcow2_layout_place(FlQcow2Layout *layout, uint64_t tables, uint64_t data)
{
    uint64_t size = layout->cluster_size;
    uint64_t l1 = fl_div_up(layout->l1_entries * 8, size);
    uint64_t fixed = 1 + l1 + tables + data;
    uint64_t blocks = 0, table = 0, clusters = 0;

    /* Refcount tables count themselves too: iterate from zero until they cover everything. */
    for (;;) {
        uint64_t all = fixed + blocks + table;
        if (all == clusters)
            break;
        clusters = all;
        blocks = fl_div_up(clusters, size / 2);
        table = fl_div_up(blocks * 8, size);
    }
    if (table * size > MAX_REFCOUNT_TABLE_BYTES)
        return "its refcount table would be larger than 8 MiB";
    if (clusters > MAX_FILE_BYTES / size)
        return "it would be larger than 64 PiB";

    layout->clusters = clusters;
    layout->refcount_blocks = blocks;
    layout->refcount_table = size;
    layout->refcount_block = layout->refcount_table + table * size;
    layout->l1 = layout->refcount_block + blocks * size;
    layout->l2 = layout->l1 + l1 * size;
    layout->data = layout->l2 + tables * size;
    layout->end = layout->data + data * size;
    return NULL;
}
