/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A logical volume: a raw file assembled from areas of the disk, linear or striped. */
#pragma once

#include "view/view.h"

/*
 * A segment of a volume: LENGTH bytes in stripes of STRIPE bytes, distributed round-robin over N
 * areas of the disk. The areas have equal length, a multiple of STRIPE. A linear segment has one
 * area and one stripe.
 */
typedef struct {
    uint64_t length, stripe;
    unsigned n;
    uint64_t *areas; /* start of each area on the disk */
} FlVolumePart;

/* A volume of N_PARTS segments, which are copied. All of them lie within [0, fl_map_size(ALLOC)) of
 * the disk. ALLOC may be NULL: everything is data. */
FlView *fl_view_volume_new(FlMap *alloc, const FlVolumePart *parts, unsigned n_parts);
