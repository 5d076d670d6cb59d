/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Meta contexts: the kinds of maps. Names are defined by the NBD protocol ("Metadata querying") and
 * QEMU (docs/interop/nbd.txt).
 */
#pragma once

#define FL_CONTEXT_NAME_ALLOCATION "base:allocation"
#define FL_CONTEXT_NAME_DEPTH      "qemu:allocation-depth"

/* How to interpret the types of a meta context. */
typedef enum {
    FL_CONTEXT_ALLOCATION, /* base:allocation: FL_ALLOC_* (map.h) */
    FL_CONTEXT_DIRTY,      /* qemu:dirty-bitmap:NAME: FL_DIRTY */
    FL_CONTEXT_DEPTH,      /* qemu:allocation-depth: the layer that has the data, 1: top; 0: none */
    FL_CONTEXT_OTHER,      /* unknown: numbers only */
} FlContextKind;

FlContextKind fl_context_kind(const char *context);

/* The context of the dirty bitmap NAME. Free with g_free(). */
char *fl_context_of_bitmap(const char *name);
/* The name of the dirty bitmap of CONTEXT, a pointer into CONTEXT; NULL if that is not a dirty
 * bitmap. */
const char *fl_context_bitmap(const char *context);
