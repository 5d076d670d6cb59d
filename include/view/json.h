/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extents as JSON, an array of one object a line. Of a dirty bitmap they are merged with
 * base:allocation, as oVirt imageio serves them:
 *
 *     {"start": 0, "length": 65536, "dirty": true, "zero": false}
 *
 * and of a whole disk {"start": 0, "length": 65536, "zero": true, "hole": true}.
 *
 * Lines have different lengths; 16 bytes every 512 extents are kept to find them, from one pass at
 * construction.
 */
#pragma once

#include "view/view.h"

/* ALLOC and DIRTY are maps of SIZE bytes, of which references are kept, or NULL. Without ALLOC,
 * nothing is known to be zero; without DIRTY, it is the whole disk. */
FlView *fl_view_json_new(FlMap *alloc, FlMap *dirty, uint64_t size);
