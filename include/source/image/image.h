/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disk images: finding out what one is, and having a storage daemon serve it.
 *
 * Nothing is ever written to an image. QEMU's locks are taken: an image that somebody else writes
 * to (a running VM) is an error, and while one is served nobody can start to write to it or to what
 * it is based on. Reading the same image several times at once is fine.
 *
 * Names go to QEMU as JSON and as absolute paths, never as option strings or URIs, so any character
 * is safe in them. QEMU's monitor speaks UTF-8 only: a path that is not valid UTF-8 is an error.
 */
#pragma once

#include "map/bitmap.h"
#include "qemu/qmp.h"
#include "util/jail.h"

#include <time.h>

/* The image's node in the storage daemon; and one without data, for bitmaps that have parts in
 * several images. */
#define FL_IMAGE_NODE       "image"
#define FL_IMAGE_UNION_NODE "union"

/* What is known of an image beyond what NBD tells. */
typedef struct {
    char *name;         /* of the export: the file's name without its last extension */
    char *format;       /* as QEMU calls it: "qcow2", "raw" */
    GPtrArray *bitmaps; /* of FlBitmap, sorted by name */
    /* The latest of the file and the one that its data is in, if that is another; of a block
     * device, whose contents have no times, when it was opened. */
    struct timespec mtime, ctime;
} FlImageInfo;

typedef struct {
    FlImageInfo info;
    GPtrArray *merged; /* of char *: bitmaps whose parts are merged in FL_IMAGE_UNION_NODE */
    char *path;        /* absolute */
    bool block_device;
    GPtrArray *files; /* of char *: its own, and as far as known those that it is based on */
    guint own;        /* how many, from the first on, are its own */
    char *open; /* why it cannot be served in a jail; NULL: nothing is known to be in the way */
} FlImage;

/*
 * Looks at the image at PATH, which may be relative. Unless FORMAT names it, the format is found by
 * the contents, as QEMU does; what no other driver knows is raw. The bitmaps are not known yet.
 * QEMU looks at each file of the chain in a jail that holds only this one.
 */
FlImage *fl_image_probe(const char *path, const char *format, GError **error);
void fl_image_free(FlImage *image); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlImage, fl_image_free)

/* What PROGRAM, which is to read the whole chain, may be shut into; NULL if there is no such jail:
 * then image->open says why. */
FlJail *fl_image_jail(FlImage *image, const char *program);

/*
 * Opens IMAGE and its backing chain in the storage daemon behind QMP and adds it to its NBD server
 * as the export info.name, with all consistent bitmaps of the image. Fills in info.bitmaps and the
 * times.
 */
bool fl_image_export(FlImage *image, FlQmp *qmp, GError **error);

/* bitmaps.c. Fills in info.bitmaps: those of the image, with what there is of them in the
 * images below it. */
bool fl_image_find_bitmaps(FlImage *image, FlQmp *qmp, GError **error);

/* Whether MESSAGE is QEMU's about an image that somebody else has open. */
bool fl_image_is_lock_failure(const char *message);
