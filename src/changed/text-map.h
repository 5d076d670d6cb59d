/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Maps that were written as text, read again. Private to changed/. */
#pragma once

#include "map/map.h"

/* Of dirty/NAME.map, as FL_DIRTY; of another map of nbdinfo's, what is data. */
FlMap *fl_text_map_read(const char *path, GError **error);

/* What is dirty in A or in B. NULL if their sizes differ. */
FlMap *fl_text_map_unite(const FlMap *a, const FlMap *b);
/* What is dirty in A, where it is so in B with FL_AGAIN. NULL if their sizes differ. */
FlMap *fl_text_map_mark(const FlMap *a, const FlMap *b);
