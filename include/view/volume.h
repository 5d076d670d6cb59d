/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A logical volume: a raw file whose parts lie anywhere on the disk, in a row or in stripes. */
#pragma once

#include "view/view.h"

/*
 * A part of a volume: LENGTH bytes, the first STRIPE of them where the first of N areas begins on
 * the disk, the next STRIPE at the second, and so on round; the areas are of one length, a multiple
 * of STRIPE. A part that is in a row has one area and one stripe.
 */
typedef struct {
    uint64_t length, stripe;
    unsigned n;
    uint64_t *areas; /* where they begin */
} FlVolumePart;

/* N_PARTS of a disk, which has [0, fl_map_size(ALLOC)) and all of them; copied. ALLOC: NULL: all is
 * data. */
FlView *fl_view_volume_new(FlMap *alloc, const FlVolumePart *parts, unsigned n_parts);
