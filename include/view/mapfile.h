/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Maps as text, as `nbdinfo --map` prints them: a line an extent, of offset, length, type and what
 * the type means.
 *
 * The columns are wide enough for any number, so all lines of a file have one length: its size and
 * the line of any offset follow from the number of extents.
 */
#pragma once

#include "map/context.h"
#include "view/view.h"

/* Room that fl_context_describe() needs. */
#define FL_DESCRIPTION_MAX 32

/* Writes nbdinfo's word for TYPE, unterminated, and returns its end: DESCRIPTION itself where
 * nbdinfo has none. */
char *fl_context_describe(char *description, FlContextKind kind, uint32_t type);

/* The `.map` file of MAP, of which a reference is kept. */
FlView *fl_view_map_new(FlMap *map, FlContextKind kind);
