/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extents as JSON: an array with one object per line. For a dirty bitmap they are merged with
 * base:allocation, in the format of oVirt imageio:
 *
 *     {"start": 0, "length": 65536, "dirty": true, "zero": false}
 *
 * For a whole disk: {"start": 0, "length": 65536, "zero": true, "hole": true}.
 *
 * Lines vary in length; an index of 16 bytes per 512 extents, built in one pass at construction,
 * locates them.
 */
#pragma once

#include "view/view.h"

/* ALLOC and DIRTY are maps of SIZE bytes, or NULL; the view takes references. Without ALLOC,
 * nothing is known to be zero; without DIRTY, the view lists the whole disk. */
FlView *fl_view_json_new(FlMap *alloc, FlMap *dirty, uint64_t size);
