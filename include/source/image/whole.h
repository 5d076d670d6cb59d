/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Image files that have lost their end, as by a copy that was cut off.
 *
 * QEMU reads what lies behind the end of a file as zeros: lost clusters would be zeros of the disk,
 * lost tables unallocated ranges, lost bitmaps clean. So an image is looked at before it is served.
 * Formats: QEMU's docs/interop/qcow2; VMware's "Virtual Disk Format" 5.0 (sparse extents); QEMU's
 * block/vdi.c. QEMU checks the other ones itself, or, like raw, they do not tell where they end.
 */
#pragma once

#include "util/error.h"

/*
 * Whether the image at PATH, of FORMAT, holds all that its tables name; DATA_FILE is a qcow2's file
 * of data, or NULL. What cannot be opened, or is of another format, passes: it is QEMU's to say
 * what is wrong.
 *
 * The refcounts of a qcow2 mostly suffice, whatever its size; else all of its L2 tables are read,
 * as are those of the other formats. Blocks, for a minute at most: then it is an error. The error
 * does not name the image.
 */
bool fl_image_check_whole(const char *path, const char *format, const char *data_file,
                          GError **error);
