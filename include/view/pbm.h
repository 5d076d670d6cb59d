/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A dirty bitmap as a picture: a plain PBM (netpbm's pbm(5), "P1") with one cell per granule, in
 * disk order from left to right and top to bottom; 1 (black) is dirty.
 *
 * Lines have at most 70 characters, as the format requires. All rows have the same width; cells
 * past the end of the disk are 0. Comments give the size of a cell and of the disk in bytes, and
 * the context.
 */
#pragma once

#include "view/view.h"

/* Maximum number of cells, except for the padding of the last row. Granules are merged to stay
 * within it; a merged cell is dirty if any of its granules is. */
#define FL_PBM_CELLS_MAX (1u << 20)

/*
 * DIRTY is the map of a dirty bitmap; the view takes a reference. GRANULARITY is the bitmap's, in
 * bytes; 0: use the largest power of two from 512 to 64 KiB that divides all boundaries. CONTEXT is
 * the name of the meta context. An empty disk is one white cell.
 */
FlView *fl_view_pbm_new(FlMap *dirty, uint64_t granularity, const char *context);
