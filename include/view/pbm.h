/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A dirty bitmap as a picture: a plain PBM (netpbm's pbm(5), "P1") of one cell a granule, in the
 * order of the disk from left to right and top to bottom; 1, which is black, is dirty.
 *
 * All lines are at most 70 characters, as the format asks. All rows are equally wide, and cells
 * past the end of the disk are 0. Comments give the bytes of a cell and of the disk, and the
 * context.
 */
#pragma once

#include "view/view.h"

/* Most cells of a picture, but for the fill of its last row: granules are merged to stay within,
 * and such a cell is dirty if any of it is. */
#define FL_PBM_CELLS_MAX (1u << 20)

/*
 * DIRTY is a dirty bitmap's map, of which a reference is kept. GRANULARITY is the bitmap's in
 * bytes; if 0, it is taken to be the largest power of two, from 512 to 64 KiB, that all changes are
 * multiples of. CONTEXT is the meta context's name. An empty disk is one white cell.
 */
FlView *fl_view_pbm_new(FlMap *dirty, uint64_t granularity, const char *context);
