/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parts that a qcow2 view is made of: which clusters there are, where they lie in the file, and
 * the bytes of its tables. "Spec" is QEMU's docs/interop/qcow2.
 */
#pragma once

#include "view/qcow2-runs.h"
#include "view/qcow2.h"

/* What the image says of the guest's clusters; a cluster in neither set is left to the backing
 * file. */
typedef struct {
    FlRuns data;      /* guest clusters with data */
    FlRuns zero;      /* guest clusters that read as zeros whatever the backing file says */
    FlRuns tables;    /* L1 entries, that is L2 tables, in which any of these is */
    bool needs_clean; /* some data cluster holds clean bytes that are not known to be zeros */
} FlQcow2Clusters;

/* Sorts the clusters of CLUSTER_SIZE of a disk, in one pass over the joined maps. CLUSTERS is
 * zeroed. */
void fl_qcow2_clusters_scan(FlQcow2Clusters *clusters, const FlQcow2Params *params,
                            uint64_t cluster_size);
void fl_qcow2_clusters_clear(FlQcow2Clusters *clusters);

/* The file's parts in their order, each starting at a cluster and ending where the next one starts.
 */
typedef struct {
    uint64_t cluster_size;
    uint64_t virtual_size;
    uint64_t l1_entries;
    uint64_t refcount_blocks;
    uint64_t clusters; /* of the file */

    /* Offsets in the file; the header is at 0. */
    uint64_t refcount_table;
    uint64_t refcount_block;
    uint64_t l1;
    uint64_t l2;
    uint64_t data;
    uint64_t end;
} FlQcow2Layout;

/* Entries of 8 bytes in a cluster: of an L2 table, or of a cluster of the other tables. */
static inline uint64_t fl_qcow2_entries(uint64_t cluster_size)
{
    return cluster_size / 8;
}

/*
 * Both return NULL, or which limit of QEMU the image would not meet ("its L1 table ...").
 * The first knows only the sizes, so that clusters that are too small are found without looking at
 * the maps; the second places all parts, for TABLES L2 tables and DATA data clusters.
 */
const char *fl_qcow2_layout_init(FlQcow2Layout *layout, uint64_t disk_size, uint64_t cluster_size);
const char *fl_qcow2_layout_place(FlQcow2Layout *layout, uint64_t tables, uint64_t data);

/* The header with its extensions and the backing file's name: the file's first bytes. */
GByteArray *fl_qcow2_header_new(const FlQcow2Layout *layout, const char *backing,
                                const char *backing_fmt);

typedef struct {
    FlQcow2Clusters clusters;
    FlQcow2Layout layout;
    GByteArray *header; /* owned */
} FlQcow2Image;

/* Writes a part of what comes before the data. */
void fl_qcow2_make(const FlQcow2Image *image, void *buf, size_t length, uint64_t offset);
