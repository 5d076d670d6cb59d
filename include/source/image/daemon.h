/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An image file, served by a storage daemon of our own. */
#pragma once

#include "source/image/image.h"
#include "source/server.h"

typedef struct {
    FlServer *server;
    FlImage *image; /* with all that is known of it */
} FlImageDaemon;

/*
 * Serves the image at PATH read-only, all its consistent bitmaps and its backing chain included, as
 * one export named image->info.name, by a qemu-storage-daemon of its own; it answers when this
 * returns.
 *
 * FORMAT is QEMU's name of the image's format; NULL has it found by the contents. A guest writes
 * the contents of its raw disk, and could make it look like a qcow2 whose backing file is any file
 * of the host: name the format of raw disks whose guests are not trusted.
 *
 * The image is never changed. While it is served no QEMU can open it, or what it is based on, for
 * writing. Errors name the way out: an image that a running VM holds, one that is not there, a
 * backing file that is missing.
 */
FlImageDaemon *fl_image_daemon_new(const char *path, const char *format, GError **error);
/* Ends the server and waits for that. NULL is fine. */
void fl_image_daemon_free(FlImageDaemon *daemon);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlImageDaemon, fl_image_daemon_free)
