/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Kinds of file systems: each by a library that is kept by others, behind one function.
 *
 * They run confined (util/confine.h): what a guest wrote may take the process over, and then finds
 * nothing but the part.
 */
#pragma once

#include "changed/list.h"

typedef struct {
    bool extents;      /* wanted in the list */
    GString *warnings; /* lines for people, added to */
} FlWalk;

/* The files that changed. NULL with an error that names the part. */
typedef FlChangedList *FlWalkFunc(const FlPart *part, FlWalk *walk, GError **error);

FlWalkFunc fl_walk_ext; /* ext2, ext3 and ext4 */
FlWalkFunc fl_walk_ntfs;
FlWalkFunc fl_walk_fat; /* FAT12, FAT16 and FAT32 */
FlWalkFunc fl_walk_exfat;
FlWalkFunc fl_walk_hfs; /* HFS+ and HFSX */

/* Finds out what VOLUME holds, and walks it. */
FlWalkFunc fl_walk;
