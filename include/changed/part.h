/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file with a file system, as shown by a fleecefs mount, with its changed ranges and what is
 * known about when they changed.
 *
 * Offsets and lengths are bytes of the file. The file is opened with the caller's full privileges,
 * and used without any. One thread.
 */
#pragma once

#include "map/map.h"

/* Set in addition to FL_DIRTY: the range changed after the later of two bitmaps began, so it is not
 * known whether it also changed between the two. */
#define FL_AGAIN 2u

typedef struct {
    const char *since; /* a dirty bitmap; NULL: the snapshot's increment, or the only bitmap */
    const char *until; /* with SINCE: a later bitmap; NULL: none */
    char **maps;       /* files like dirty/NAME.map, used instead of bitmaps; NULL or empty: none */
    int64_t newer;     /* changes are later than this, by the guest's clock; -1: unknown */
} FlPartOptions;

/* LENGTH bytes of a file that are contiguous on the disk. */
typedef struct {
    uint64_t start, length, disk;
} FlStretch;

typedef struct {
    char *path;
    int fd;
    uint64_t size;
    FlMap *changed;    /* of the file, with FL_DIRTY and FL_AGAIN */
    GArray *stretches; /* of FlStretch, which cover it in order */
    /* In seconds since 1970, by the host's clock unless said otherwise. */
    int64_t since;    /* when the bitmap began; -1: unknown */
    bool guest_clock; /* SINCE is by the guest's clock */
    int64_t snapshot; /* the point in time of the file's contents */
} FlPart;

FlPart *fl_part_open(const char *path, const FlPartOptions *options, GError **error);
void fl_part_free(FlPart *part); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlPart, fl_part_free)

/* Reads exactly LENGTH bytes; -EIO also at the end of the file. */
errint_t fl_part_read(const FlPart *part, void *buf, size_t length, uint64_t offset);

/* The next changed range in [OFFSET, END), clipped to it. False if there is none. */
bool fl_part_next(const FlPart *part, uint64_t offset, uint64_t end, FlExtent *extent);

/* The disk offset of OFFSET, which is below the size; *LENGTH is reduced to what is contiguous on
 * the disk. */
uint64_t fl_part_disk(const FlPart *part, uint64_t offset, uint64_t *length);

/* The number of changed bytes in [OFFSET, OFFSET + LENGTH); bytes past the end do not count. */
uint64_t fl_part_changed(const FlPart *part, uint64_t length, uint64_t offset);
