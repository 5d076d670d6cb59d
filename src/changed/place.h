/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a file of a mount lies on its disk, and the disk's bitmaps, according to info.json beside
 * it. Private to changed/.
 */
#pragma once

#include "changed/part.h"
#include "qemu/json.h"

typedef struct {
    char *path;        /* of the file */
    char *folder;      /* of the disk, with info.json and dirty/ */
    GArray *stretches; /* of FlStretch: the file's bytes, in order */
    JsonObject *info;  /* NULL if there is none */
    int64_t snapshot;  /* point in time, seconds since 1970 */
} FlPlace;

/* ALONE: a file without an info.json is a whole disk of SIZE bytes. */
FlPlace *fl_place_find(const char *path, uint64_t size, bool alone, GError **error);
void fl_place_free(FlPlace *place); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlPlace, fl_place_free)

/* Reads the disk's map of changes since bitmap SINCE (NULL: the only one). Ranges also in UNTIL are
 * marked with FL_AGAIN. */
FlMap *fl_place_read_bitmaps(const FlPlace *place, const char *since, const char *until,
                             GError **error);

/* Returns when bitmap SINCE began, in seconds since 1970; -1 if unknown. */
int64_t fl_place_since(const FlPlace *place, const char *since);
