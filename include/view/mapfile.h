/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Maps as text, as `nbdinfo --map` prints them: a line an extent, of offset, length, type and what
 * the type means.
 *
 * The columns are wide enough for any number, so all lines of a file have one length: its size and
 * the line of any offset follow from the number of extents.
 */
#pragma once

#include "view/view.h"

/* What the types of a meta context mean. */
typedef enum {
    FL_CONTEXT_ALLOCATION, /* base:allocation: FL_ALLOC_* (NBD protocol) */
    FL_CONTEXT_DIRTY,      /* qemu:dirty-bitmap:NAME: FL_DIRTY (QEMU, docs/interop/nbd.txt) */
    FL_CONTEXT_DEPTH,      /* qemu:allocation-depth: the layer that has it, 1 the top; 0: none */
    FL_CONTEXT_OTHER,      /* not known: numbers only */
} FlContextKind;

FlContextKind fl_context_kind(const char *context_name);

/* Room that fl_context_describe() needs. */
#define FL_DESCRIPTION_MAX 32

/* Writes nbdinfo's word for TYPE, unterminated, and returns its end: DESCRIPTION itself where
 * nbdinfo has none. */
char *fl_context_describe(char *description, FlContextKind kind, uint32_t type);

/* The `.map` file of MAP, of which a reference is kept. */
FlView *fl_view_map_new(FlMap *map, FlContextKind kind);
