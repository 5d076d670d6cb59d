/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images on another host, opened by a storage daemon that runs there.
 *
 * The same as on this host (image.h), except that the daemon has no jail. So no format is detected
 * from contents, which a guest controls, and every file of the chain must be a file or block
 * device. Whether an image is truncated is found out by reading its tables through the daemon's NBD
 * server.
 */
#pragma once

#include "source/image/image.h"
#include "source/source.h"

typedef struct {
    FlQmp *qmp;       /* of the storage daemon */
    FlSource *server; /* its NBD server; NULL: the images are known to be complete */
    unsigned seconds; /* timeout of each reply of the server */
    /* Sets DEVICE to whether PATH there is a block device, and SIZE to the bytes of a file. Fails
     * if it is neither. */
    bool (*look)(const char *path, bool *device, uint64_t *size, void *opaque, GError **error);
    void *opaque;
} FlImageHost;

/*
 * Opens the image at PATH, of FORMAT, in the storage daemon of HOST and exports it as NAME with all
 * its consistent bitmaps. NUMBER: different for each image of one storage daemon. The caller fills
 * in the times. Blocks for as long as reading the tables takes, a minute per file at most.
 */
FlImage *fl_image_export_there(const FlImageHost *host, const char *path, const char *format,
                               const char *name, unsigned number, GError **error);
