/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads maps in text form. Private to changed/. */
#pragma once

#include "map/map.h"

/* Reads dirty/NAME.map, as FL_DIRTY, or another map in nbdinfo's format, whose data is FL_DIRTY. */
FlMap *fl_text_map_read(const char *path, GError **error);

/* Returns what is dirty in A or in B; NULL if their sizes differ. */
FlMap *fl_text_map_unite(const FlMap *a, const FlMap *b);
/* Returns what is dirty in A, with FL_AGAIN where B is dirty, too; NULL if their sizes differ. */
FlMap *fl_text_map_mark(const FlMap *a, const FlMap *b);
