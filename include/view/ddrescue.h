/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GNU ddrescue mapfiles (info ddrescue, "Mapfile structure"), for use as a domain:
 *
 *     ddrescue --force --domain-mapfile=BITMAP.ddrescue BITMAP.raw old-full.raw
 *
 * copies exactly the dirty ranges, including zeros.
 */
#pragma once

#include "view/view.h"

/* DIRTY is the map of a dirty bitmap; the view takes a reference. All numbers in a file have the
 * same width, so its size and the line at any offset follow from the number of extents. */
FlView *fl_view_ddrescue_new(FlMap *dirty);
