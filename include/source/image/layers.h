/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bitmaps in image files, those that an image is based on included. Calls qemu-img. */
#pragma once

#include "util/error.h"

#include <stdbool.h>

typedef struct {
    char *path;         /* as QEMU calls it, absolute for a file */
    GPtrArray *bitmaps; /* of char *, names */
} FlImageLayer;

/*
 * The image at PATH, an absolute one, and what it is based on; of FlImageLayer. FORMAT may be NULL:
 * found by the contents. An image that a running VM has needs SHARE; the bitmaps that the VM will
 * store when it ends are not there yet.
 */
GPtrArray *fl_image_layers(const char *path, const char *format, bool share, GError **error);

/*
 * Removes from the image at PATH, and what it is based on, the bitmaps that are WANTED. REPORT (of
 * char *) gets a line for each that was. Goes on after a failure. Fails on an image that somebody
 * has open.
 */
bool fl_image_remove_bitmaps(const char *path, const char *format,
                             bool (*wanted)(const char *name, const void *opaque),
                             const void *opaque, GPtrArray *report, GError **error);
