/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Detects truncated image files, for example from an interrupted copy.
 *
 * QEMU reads zeros beyond the end of a file: lost clusters would read as zeros, lost tables as
 * unallocated ranges, lost bitmaps as clean. So images are checked before they are served. Formats:
 * QEMU's docs/interop/qcow2; VMware's "Virtual Disk Format" 5.0 (sparse extents); QEMU's
 * block/vdi.c. QEMU checks the other formats itself, or, like raw, they do not record their length.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>

/*
 * Checks that the image at PATH, of FORMAT, contains everything its tables refer to. DATA_FILE is
 * the external data file of a qcow2, or NULL. A file that cannot be opened or has another format
 * passes; QEMU reports what is wrong with it.
 *
 * For a qcow2 of any size, the refcounts usually suffice; otherwise all L2 tables are read, as are
 * the tables of other formats. Blocks for a minute at most, then fails. The error does not name the
 * image.
 */
bool fl_image_check_whole(const char *path, const char *format, const char *data_file,
                          GError **error);

/* A file that cannot be opened here. */
typedef struct {
    uint64_t size; /* bytes */
    /* Reads LENGTH bytes at OFFSET; blocks. */
    bool (*read)(void *opaque, void *buf, size_t length, uint64_t offset, GError **error);
    void *opaque;
} FlImageBytes;

/* The same for such files; DATA may be NULL. */
bool fl_image_check_bytes(const FlImageBytes *image, const char *format, const FlImageBytes *data,
                          GError **error);
