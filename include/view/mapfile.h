/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Maps as text, in the format of `nbdinfo --map`: one line per extent with offset, length, type and
 * description of the type.
 *
 * The columns are wide enough for any number, so all lines of a file have the same length: its size
 * and the line at any offset follow from the number of extents.
 */
#pragma once

#include "map/context.h"
#include "view/view.h"

/* Buffer size for fl_context_describe(). */
#define FL_DESCRIPTION_MAX 32

/* Writes nbdinfo's description of TYPE, not NUL-terminated, and returns its end: DESCRIPTION itself
 * if nbdinfo has none. */
char *fl_context_describe(char *description, FlContextKind kind, uint32_t type);

/* The `.map` file of MAP; takes a reference. */
FlView *fl_view_map_new(FlMap *map, FlContextKind kind);
