/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty bitmaps as whoever serves them knows them, beyond what a map says. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    char *name;           /* as its owner calls it; its files are named after it */
    char *context;        /* the meta context that tells of it: "qemu:dirty-bitmap:..." */
    uint64_t granularity; /* bytes; 0: not known */
    uint64_t count;       /* bytes that are dirty in the image itself, whole granules */
    bool inconsistent;    /* was in use when its writer died: not served */
    bool torn;            /* parts of it are in images of different sizes: not served */
} FlBitmap;

/* Either NAME or CONTEXT may be NULL, and follows from the other then. GRANULARITY counts if it is
 * one that QEMU can have: from somebody who says other numbers it is not known. */
FlBitmap *fl_bitmap_new(const char *name, const char *context, uint64_t granularity);
FlBitmap *fl_bitmap_copy(const FlBitmap *bitmap);
void fl_bitmap_free(FlBitmap *bitmap); /* NULL is fine */

static inline bool fl_bitmap_is_whole(const FlBitmap *bitmap)
{
    return !bitmap->inconsistent && !bitmap->torn;
}

/* Of BITMAPS (FlBitmap), the one that CONTEXT tells of; NULL if there is none. */
const FlBitmap *fl_bitmap_find(const GPtrArray *bitmaps, const char *context);
