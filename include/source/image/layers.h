/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists and removes bitmaps in image files and their backing chains, with qemu-img. */
#pragma once

#include "util/error.h"

#include <stdbool.h>

typedef struct {
    char *path;         /* as QEMU reports it; absolute for a file */
    GPtrArray *bitmaps; /* of char *, names */
} FlImageLayer;

/*
 * Lists the image at PATH (absolute) and its backing files, as FlImageLayer. FORMAT NULL detects
 * the format from the contents. SHARE is needed for an image in use by a running VM; bitmaps that
 * the VM stores only on shutdown are not listed then.
 */
GPtrArray *fl_image_layers(const char *path, const char *format, bool share, GError **error);

/*
 * Removes the bitmaps for which WANTED returns true from the image at PATH and its backing files.
 * Adds a line to REPORT (of char *) for each one removed. Continues after a failure. Fails on an
 * image that is in use.
 */
bool fl_image_remove_bitmaps(const char *path, const char *format,
                             bool (*wanted)(const char *name, const void *opaque),
                             const void *opaque, GPtrArray *report, GError **error);
