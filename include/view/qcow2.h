/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2 images generated from the maps of a disk: the whole disk (disk.qcow2) or an increment on a
 * backing file (dirty/BITMAP.qcow2).
 *
 * The format is version 3 of QEMU's docs/interop/qcow2, with 16-bit refcounts and no compression.
 * Every byte is a function of the parameters alone: equal parameters give an identical file.
 * Offsets are computed; only the runs of clusters are stored (16 bytes per run, at most about two
 * runs per extent of the two maps combined), and tables are generated when read. The file has no
 * holes.
 */
#pragma once

#include "map/cover.h"
#include "view/view.h"

#define FL_QCOW2_CLUSTER_MIN     512u
#define FL_QCOW2_CLUSTER_MAX     (2u << 20)
#define FL_QCOW2_CLUSTER_DEFAULT (64u << 10)

typedef struct {
    FlMap *alloc; /* NULL: nothing is known to read as zeros */
    FlMap *dirty; /* NULL: an image of the whole disk, except ranges that read as zeros */
    uint64_t
        disk_size; /* bytes; the maps have the same size. The guest sees it rounded up to 512 */
    uint64_t granularity;    /* of the bitmap; 0: the coarsest that its boundaries allow */
    uint64_t cluster_size;   /* 0: chosen, see below */
    const char *backing;     /* name of the backing file; NULL: none */
    const char *backing_fmt; /* its format; NULL: not recorded */
    bool exact; /* the server rejects requests for clean ranges: fail if a clean byte is needed */
} FlQcow2Params;

/*
 * Dirty clusters are data, or zero clusters if the whole cluster reads as zeros; clean clusters are
 * left to the backing file. A partly dirty cluster contains the disk's bytes throughout.
 *
 * The cluster size is 64 KiB, or the bitmap's granularity if that is finer, so that no cluster is
 * partly dirty. It is larger if the disk would otherwise exceed QEMU's limits.
 *
 * Returns NULL with an error if QEMU's limits cannot be met (2 EiB with 2 MiB clusters, 128 GiB
 * with 512-byte clusters), or if a clean byte would be needed that EXACT forbids. Takes references
 * to the maps.
 */
FlView *fl_view_qcow2_new(const FlQcow2Params *params, GError **error);

/* Values in the header of a view from fl_view_qcow2_new(). */
uint64_t fl_view_qcow2_cluster_size(const FlView *view);
uint64_t fl_view_qcow2_virtual_size(const FlView *view);

/* Whether a reader that received the bytes READ of the file knows which clusters are zeros. These
 * have no data: in an increment they are zero clusters, entries in the L2 tables; in an image of
 * the whole disk they are those that the tables do not allocate. */
bool fl_view_qcow2_tells_zeros(const FlView *view, const FlCover *read);

/* Whether QEMU accepts SIZE: a power of two, 512 bytes to 2 MiB. */
bool fl_qcow2_cluster_size_valid(uint64_t size);
