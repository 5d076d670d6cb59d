/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parts of a qcow2 view: the set of clusters, their place in the file, and the bytes of its
 * tables. "Spec" is QEMU's docs/interop/qcow2.
 */
#pragma once

#include "view/qcow2-runs.h"
#include "view/qcow2.h"

/* How the image maps the guest's clusters; a cluster in neither set is left to the backing file. */
typedef struct {
    FlRuns data;      /* guest clusters with data */
    FlRuns zero;      /* guest clusters that read as zeros regardless of the backing file */
    FlRuns tables;    /* L1 entries (L2 tables) that contain any of these */
    bool needs_clean; /* some data cluster holds clean bytes that are not known to be zeros */
} FlQcow2Clusters;

/* Classifies the clusters of a disk, CLUSTER_SIZE bytes each, in one pass over the joined maps.
 * CLUSTERS must be zeroed. */
void fl_qcow2_clusters_scan(FlQcow2Clusters *clusters, const FlQcow2Params *params,
                            uint64_t cluster_size);
void fl_qcow2_clusters_clear(FlQcow2Clusters *clusters);

/* The parts of the file in order; each starts at a cluster and ends where the next one starts. */
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

/* Number of 8-byte entries in a cluster of any table. */
static inline uint64_t fl_qcow2_entries(uint64_t cluster_size)
{
    return cluster_size / 8;
}

/*
 * Both return NULL, or the QEMU limit that the image would exceed ("its L1 table ...").
 * fl_qcow2_layout_init() checks sizes only, so that clusters that are too small are rejected
 * without reading the maps; fl_qcow2_layout_place() places all parts, for TABLES L2 tables and DATA
 * data clusters.
 */
const char *fl_qcow2_layout_init(FlQcow2Layout *layout, uint64_t disk_size, uint64_t cluster_size);
const char *fl_qcow2_layout_place(FlQcow2Layout *layout, uint64_t tables, uint64_t data);

/* The header with its extensions and the name of the backing file: the start of the file. */
GByteArray *fl_qcow2_header_new(const FlQcow2Layout *layout, const char *backing,
                                const char *backing_fmt);

typedef struct {
    FlQcow2Clusters clusters;
    FlQcow2Layout layout;
    GByteArray *header; /* owned */
} FlQcow2Image;

/* Writes a range of the metadata, which precedes the data. */
void fl_qcow2_make(const FlQcow2Image *image, void *buf, size_t length, uint64_t offset);
