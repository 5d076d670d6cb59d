/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File system drivers, each on top of an external library, behind one function type.
 *
 * They run confined (util/confine.h): data written by the guest may take over the process, which
 * then has access to nothing but the part.
 */
#pragma once

#include "changed/list.h"

typedef struct {
    bool extents;      /* list extents too */
    GString *warnings; /* messages for people, appended to */
} FlWalk;

/* Returns the changed files; NULL with an error that names the part. */
typedef FlChangedList *FlWalkFunc(const FlPart *part, FlWalk *walk, GError **error);

FlWalkFunc fl_walk_ext; /* ext2, ext3 and ext4 */
FlWalkFunc fl_walk_ntfs;
FlWalkFunc fl_walk_fat; /* FAT12, FAT16 and FAT32 */
FlWalkFunc fl_walk_exfat;
FlWalkFunc fl_walk_hfs; /* HFS+ and HFSX */

/* Detects the file system of the part, and walks it. */
FlWalkFunc fl_walk;
