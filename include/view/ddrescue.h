/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GNU ddrescue mapfiles (info ddrescue, "Mapfile structure"), to be used as a domain:
 *
 *     ddrescue --force --domain-mapfile=BITMAP.ddrescue BITMAP.raw old-full.raw
 *
 * copies what is dirty, zeros included, and nothing else.
 */
#pragma once

#include "view/view.h"

/* DIRTY is a dirty bitmap's map, of which a reference is kept. Numbers have one width in all of a
 * file, so its size and the line of any offset follow from the number of extents. */
FlView *fl_view_ddrescue_new(FlMap *dirty);
