/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What export.c and info.c share. */
#pragma once

#include "map/cover.h"
#include "mount/export.h"

#define FL_ALLOCATION    "base:allocation"
#define FL_BITMAP_PREFIX "qemu:dirty-bitmap:"

struct FlExport {
    FlDisk *disk;
    FlOrigin *origin;
    const FlViewOptions *options;
    FlBlocks *blocks;
    GPtrArray *files; /* of FlFile */
    FlCover *cover;   /* ranges of the disk that reached a reader */
    unsigned opened;  /* files */
    bool has_qcow2;
};

/* ISO 8601 with microseconds, in UTC; to be freed with g_free(). */
char *fl_time_format(const struct timespec *time);
