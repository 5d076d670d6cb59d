/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Meta contexts: what a map is about. Their names are NBD's ("Metadata querying" in its protocol)
 * and QEMU's (docs/interop/nbd.txt).
 */
#pragma once

#define FL_CONTEXT_NAME_ALLOCATION "base:allocation"
#define FL_CONTEXT_NAME_DEPTH      "qemu:allocation-depth"

/* What the types of a meta context mean. */
typedef enum {
    FL_CONTEXT_ALLOCATION, /* base:allocation: FL_ALLOC_* (map.h) */
    FL_CONTEXT_DIRTY,      /* qemu:dirty-bitmap:NAME: FL_DIRTY */
    FL_CONTEXT_DEPTH,      /* qemu:allocation-depth: the layer that has it, 1 the top; 0: none */
    FL_CONTEXT_OTHER,      /* not known: numbers only */
} FlContextKind;

FlContextKind fl_context_kind(const char *context);

/* The context of the dirty bitmap NAME; to be freed with g_free(). */
char *fl_context_of_bitmap(const char *name);
/* The name of the dirty bitmap that CONTEXT, whose string it is part of, tells of; NULL if it tells
 * of none. */
const char *fl_context_bitmap(const char *context);
