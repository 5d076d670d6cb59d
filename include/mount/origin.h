/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The origin of an export: what is known about it from its source, its snapshot and its series of
 * backups. Filled in before the export is created, then owned by the export and constant. Owns its
 * strings; they are NULL if not known.
 */
#pragma once

#include "map/bitmap.h"
#include "map/times.h"

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

typedef struct FlOrigin FlOrigin;

/* Its place in a series of backups. */
typedef struct {
    char *mode, *reason; /* "full" or "incremental"; why it is full */
    char *restore_point; /* the one that a commit keeps */
    char *base;          /* the restore point that the increment is relative to */
    char *increment;     /* meta context of the increment; NULL in a full backup */
    char *disk_id;       /* identifies the disk within its series */
} FlOriginChain;

typedef struct {
    char *uuid, *name, *source;
} FlOriginVm;

typedef struct {
    bool taken; /* a snapshot that a commit ends; if false, the other fields are meaningless */
    char *id;   /* shared by all disks of the snapshot */
    /* Time to take the snapshot, time that guest writes were blocked, and time that the guest was
     * frozen (0: it was not). */
    unsigned begin_ms, held_ms, frozen_ms;
    /* Current and maximum size of the scratch file in bytes; NULL if there is none. */
    void (*scratch_use)(const void *scratch, uint64_t *used, uint64_t *limit);
    void *scratch; /* freed with g_free() */
} FlOriginSnapshot;

/* The times of the files in split/. */
typedef struct {
    FlTimes *times;   /* at the base; NULL: not known */
    GPtrArray *shown; /* of FlTimes: other snapshots since the base; NULL if none */
    /* Of changed pieces: the mtime (the point in time or, for a VM that is shut off, when its image
     * was last written), and the earliest ctime. */
    struct timespec time, ctime;
    char *place; /* key under which the times are stored; NULL: not stored */
    /* The source whose notes of PLACE are those of another disk or series; NULL: there are none.
     * TAKE_OVER must then be called before a time is shown. */
    char *foreign;
    void (*take_over)(const FlOrigin *origin);
} FlOriginPieces;

struct FlOrigin {
    char *source; /* name that inode numbers are derived from: the same in each mount */
    char *folder; /* name of the folder, not yet encoded */
    struct timespec time, ctime; /* the point in time, and the files' ctime */
    GPtrArray *bitmaps;          /* of FlBitmap: those known in advance */
    GPtrArray *inconsistent;     /* of char *: names of bitmaps that are not served */
    const char *no_maps;         /* why the maps are not loaded, a static string; NULL: they are */
    char *format;                /* of an image file */
    FlOriginChain chain;
    FlOriginVm vm;
    FlOriginSnapshot snapshot;
    FlOriginPieces pieces;
};

FlOrigin *fl_origin_new(const char *source, const char *folder);
void fl_origin_free(FlOrigin *origin); /* NULL is fine */
