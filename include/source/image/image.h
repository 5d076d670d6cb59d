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
    GPtrArray *merged; /* of char *: bitmaps merged in union_node */
    char *path;        /* absolute */
    /* Names of its nodes in the storage daemon: the image; one on top that keeps writers away; and
     * one without data that holds bitmaps merged from several images of the chain. */
    char *node, *guard_node, *union_node;
    GHashTable *others; /* of char *: the daemon's nodes before it was exported */
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

/* How to examine the files of an image. Errors need not name the image, except for a backing
 * file. */
typedef struct {
    /* What makes a chain unsuitable, a file that is not found or not a file, or a backing file
     * whose format is unknown, is an error; otherwise the storage daemon is to find out. */
    bool strict;
    /* Checks the type of the image's own file, and sets image->block_device. */
    bool (*look)(FlImage *image, const char *format, void *opaque, GError **error);
    /* Returns QEMU's ImageInfo (qapi/block-core.json) of the file at PATH, opened without its
     * backing files. FORMAT NULL: detected. */
    JsonObject *(*ask)(FlImage *image, const char *path, const char *format, void *opaque,
                       GError **error);
    /* fl_image_check_whole() */
    bool (*check)(const char *path, const char *format, const char *data_file, void *opaque,
                  GError **error);
} FlImageProber;

/* The same by PROBER with OPAQUE. NUMBER: different for each image of one storage daemon. */
FlImage *fl_image_probe_by(const FlImageProber *prober, void *opaque, const char *path,
                           const char *format, unsigned number, GError **error);
void fl_image_free(FlImage *image); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlImage, fl_image_free)

/* A jail for PROGRAM, which reads the whole chain; NULL if none can be built, with the reason in
 * image->open. */
FlJail *fl_image_jail(FlImage *image, const char *program);

/*
 * Opens IMAGE and its backing chain in the storage daemon behind QMP and exports it as info.name
 * with all its consistent bitmaps. Fills in info.bitmaps.
 */
bool fl_image_export(FlImage *image, FlQmp *qmp, GError **error);
/* Fills in the times and ids of an image on this host. They are final once it is exported: nobody
 * writes to it. */
void fl_image_find_state(FlImage *image);

/* bitmaps.c. Fills in others. */
bool fl_image_find_others(FlImage *image, FlQmp *qmp, GError **error);
/* Fills in info.bitmaps: the bitmaps of the image, merged with their parts in its backing files. */
bool fl_image_find_bitmaps(FlImage *image, FlQmp *qmp, GError **error);

/* Whether MESSAGE is QEMU's error for an image that is locked by another process. */
bool fl_image_is_lock_failure(const char *message);
