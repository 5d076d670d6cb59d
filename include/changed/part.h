/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file that holds a file system, as a mount of fleecefs shows it, with the ranges of it that
 * changed and what is known of the time in which they did.
 *
 * Offsets and lengths are bytes of the file. It is opened with all rights of the caller, and used
 * where there are none. One thread.
 */
#pragma once

#include "map/map.h"

/* Beside FL_DIRTY: it changed after the later one of two bitmaps began, and nothing tells whether
 * it also did so between the two. */
#define FL_AGAIN 2u

typedef struct {
    const char *since; /* a dirty bitmap; NULL: the increment of a snapshot, or the only one */
    const char *until; /* with since: a later bitmap; NULL: none */
    char **maps;       /* files as of dirty/NAME.map, instead of bitmaps; NULL or empty: none */
    int64_t newer;     /* what changed did so later, by the guest's clock; -1: not known */
} FlPartOptions;

/* LENGTH bytes of a file that lie together on the disk. */
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
    int64_t since;    /* when the bitmap began; -1: not known */
    bool guest_clock; /* SINCE is by that */
    int64_t snapshot; /* the point in time of the file's contents */
} FlPart;

FlPart *fl_part_open(const char *path, const FlPartOptions *options, GError **error);
void fl_part_free(FlPart *part); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlPart, fl_part_free)

/* Reads exactly LENGTH bytes. -EIO at the end of the file, as well. */
errint_t fl_part_read(const FlPart *part, void *buf, size_t length, uint64_t offset);

/* The next range of [offset, end) that changed, cut to it. False if there is none. */
bool fl_part_next(const FlPart *part, uint64_t offset, uint64_t end, FlExtent *extent);

/* Where OFFSET, below the size, is on the disk; *LENGTH is cut to what lies together with it. */
uint64_t fl_part_disk(const FlPart *part, uint64_t offset, uint64_t *length);

/* How many bytes of [offset, offset + length) changed; what is past the end did not. */
uint64_t fl_part_changed(const FlPart *part, uint64_t length, uint64_t offset);
