/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2 images made up from the maps of a disk: the whole disk (disk.qcow2) or an increment over a
 * backing file (dirty/BITMAP.qcow2).
 *
 * The format is version 3 of QEMU's docs/interop/qcow2, with refcounts of 16 bits and no
 * compression. Every byte is a function of the parameters alone: the same ones make the same file.
 * Offsets are computed, nothing but the runs of clusters is kept (16 bytes a run, at most about two
 * runs an extent of the maps taken together), and tables are made when they are read. The file has
 * no holes.
 */
#pragma once

#include "map/cover.h"
#include "view/view.h"

#define FL_QCOW2_CLUSTER_MIN     512u
#define FL_QCOW2_CLUSTER_MAX     (2u << 20)
#define FL_QCOW2_CLUSTER_DEFAULT (64u << 10)

typedef struct {
    FlMap *alloc;            /* NULL: nothing is known to read as zeros */
    FlMap *dirty;            /* NULL: an image of the whole disk, without what reads as zeros */
    uint64_t disk_size;      /* bytes; the maps are as long. The guest sees it rounded up to 512 */
    uint64_t granularity;    /* of the bitmap, 0: as coarse as its boundaries allow */
    uint64_t cluster_size;   /* 0: chosen, see below */
    const char *backing;     /* name of the backing file, NULL: none */
    const char *backing_fmt; /* its format, NULL: not said */
    bool exact;              /* the server refuses clean ranges: no clean byte may be needed */
} FlQcow2Params;

/*
 * What is dirty is data, or a zero cluster where all of the cluster reads as zeros; clean clusters
 * are left to the backing file. A cluster that is dirty in part carries the disk's bytes
 * throughout.
 *
 * Clusters are of 64 KiB, or of the bitmap's granularity if that is finer, so that none is dirty in
 * part; and larger where the disk would be too large for QEMU's limits with that.
 *
 * NULL and an error where QEMU's limits cannot be met (2 EiB with clusters of 2 MiB, 128 GiB with
 * 512 bytes), or a clean byte would be needed that EXACT forbids. References to the maps are taken.
 */
FlView *fl_view_qcow2_new(const FlQcow2Params *params, GError **error);

/* Of a view that fl_view_qcow2_new() made: what its header tells. */
uint64_t fl_view_qcow2_cluster_size(const FlView *view);
uint64_t fl_view_qcow2_virtual_size(const FlView *view);

/* Whether somebody to whom the bytes READ of the file were given knows which clusters are zeros:
 * these have no data, they are entries of the L2 tables. */
bool fl_view_qcow2_tells_zeros(const FlView *view, const FlCover *read);

/* Whether QEMU takes it: a power of two, 512 bytes to 2 MiB. */
bool fl_qcow2_cluster_size_valid(uint64_t size);
