/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disk images: probing one, and exporting it from a storage daemon.
 *
 * Images are never written to. QEMU's image locks are taken: an image open for writing elsewhere (a
 * running VM) is an error, and while an image is served, no process can open it or its backing
 * files for writing. Several readers of the same image are fine.
 *
 * Names are passed to QEMU as absolute paths in JSON, never as option strings or URIs, so any
 * character is safe. The QMP monitor accepts only UTF-8: a path that is not valid UTF-8 is an
 * error.
 */
#pragma once

#include "map/bitmap.h"
#include "qemu/qmp.h"
#include "util/jail.h"

#include <time.h>

/* Node names in the storage daemon: the image, and a node without data that holds bitmaps merged
 * from several images of the chain. */
#define FL_IMAGE_NODE       "image"
#define FL_IMAGE_UNION_NODE "union"

/* What is known about an image beyond what NBD reports. */
typedef struct {
    char *name;         /* of the export: the file's name without its last extension */
    char *format;       /* QEMU's name: "qcow2", "raw" */
    GPtrArray *bitmaps; /* of FlBitmap, sorted by name */
    /* The latest of the times of the file, its external data file and its backing files. For a
     * block device, whose contents have no times: when it was opened. */
    struct timespec mtime, ctime;
    char *backing; /* ids of its backing files (util/file-id.h); NULL: none */
} FlImageInfo;

typedef struct {
    FlImageInfo info;
    GPtrArray *merged; /* of char *: bitmaps merged in FL_IMAGE_UNION_NODE */
    char *path;        /* absolute */
    bool block_device;
    GPtrArray *files; /* of char *: its own and, as far as known, its backing files */
    guint own;        /* the number of leading entries of FILES that are its own */
    char *open;       /* why it cannot be served in a jail; NULL: no known reason */
} FlImage;

/*
 * Probes the image at PATH, which may be relative. Without FORMAT, QEMU detects the format from the
 * contents; unrecognized images are raw. Does not fill in the bitmaps. Each file of the chain is
 * probed in a jail that contains only that file.
 */
FlImage *fl_image_probe(const char *path, const char *format, GError **error);
void fl_image_free(FlImage *image); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlImage, fl_image_free)

/* A jail for PROGRAM, which reads the whole chain; NULL if none can be built, with the reason in
 * image->open. */
FlJail *fl_image_jail(FlImage *image, const char *program);

/*
 * Opens IMAGE and its backing chain in the storage daemon behind QMP and exports it as info.name
 * with all its consistent bitmaps. Fills in info.bitmaps and the times.
 */
bool fl_image_export(FlImage *image, FlQmp *qmp, GError **error);

/* bitmaps.c. Fills in info.bitmaps: the bitmaps of the image, merged with their parts in its
 * backing files. */
bool fl_image_find_bitmaps(FlImage *image, FlQmp *qmp, GError **error);

/* Whether MESSAGE is QEMU's error for an image that is locked by another process. */
bool fl_image_is_lock_failure(const char *message);
