/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Properties of dirty bitmaps beyond their map, as reported by the server or image. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    char *name;           /* as its owner names it; its files have the same name */
    char *context;        /* its meta context: "qemu:dirty-bitmap:..." */
    uint64_t granularity; /* bytes; 0: not known */
    uint64_t count;       /* dirty bytes according to the image itself, in whole granules */
    bool inconsistent;    /* was in use when its writer died; not served */
    bool torn;            /* split between images of different sizes; not served */
} FlBitmap;

/* Either NAME or CONTEXT may be NULL, and is then derived from the other. A GRANULARITY that QEMU
 * cannot have counts as unknown. */
FlBitmap *fl_bitmap_new(const char *name, const char *context, uint64_t granularity);
FlBitmap *fl_bitmap_copy(const FlBitmap *bitmap);
void fl_bitmap_free(FlBitmap *bitmap); /* NULL is fine */

static inline bool fl_bitmap_is_whole(const FlBitmap *bitmap)
{
    return !bitmap->inconsistent && !bitmap->torn;
}

/* The bitmap in BITMAPS (of FlBitmap) with meta context CONTEXT; NULL if there is none. */
const FlBitmap *fl_bitmap_find(const GPtrArray *bitmaps, const char *context);
