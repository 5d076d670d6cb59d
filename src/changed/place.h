/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where on its disk a file of a mount lies, as info.json beside it tells, and which bitmaps there
 * are. Private to changed/.
 */
#pragma once

#include "changed/part.h"
#include "qemu/json.h"

typedef struct {
    char *path;        /* of the file */
    char *folder;      /* of the disk, that holds info.json and dirty/ */
    GArray *stretches; /* of FlStretch: the file's bytes, in their order */
    JsonObject *info;  /* NULL if there is none */
    int64_t snapshot;  /* point in time, seconds since 1970 */
} FlPlace;

/* ALONE: a file without an info.json is a disk of SIZE bytes of its own. */
FlPlace *fl_place_find(const char *path, uint64_t size, bool alone, GError **error);
void fl_place_free(FlPlace *place); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlPlace, fl_place_free)

/* The disk's map of what changed since bitmap SINCE, NULL for the one there is. What UNTIL has,
 * too, is marked with FL_AGAIN. */
FlMap *fl_place_read_bitmaps(const FlPlace *place, const char *since, const char *until,
                             GError **error);

/* When bitmap SINCE began, in seconds since 1970; -1 if nothing tells. */
int64_t fl_place_since(const FlPlace *place, const char *since);
