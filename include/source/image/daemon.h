/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Serves an image file with a private qemu-storage-daemon. */
#pragma once

#include "source/file-sizes.h"
#include "source/image/image.h"
#include "source/server.h"

typedef struct {
    FlServer *server;
    FlImage *image; /* with its info filled in */
    FlFileSizes *sizes;
} FlImageDaemon;

/*
 * Starts a private qemu-storage-daemon that serves the image at PATH read-only, including its
 * backing chain and all consistent bitmaps, as one export named image->info.name. The server is
 * ready when this returns.
 *
 * FORMAT is QEMU's name of the image format; NULL detects it from the contents. A guest can
 * disguise its raw disk as a qcow2 backed by any host file: always give the format for raw disks of
 * untrusted guests.
 *
 * The image is never modified. While it is served, no QEMU can open it or its backing files for
 * writing. Error messages suggest a fix for an image in use by a running VM, a missing image and a
 * missing backing file.
 */
FlImageDaemon *fl_image_daemon_new(const char *path, const char *format, GError **error);
/* Why data read so far may be wrong: a file was written to. NULL if not. Free with g_free(). Does
 * not block. */
char *fl_image_daemon_fault(const FlImageDaemon *daemon);
/* Stops the server and waits for it to exit. NULL is fine. */
void fl_image_daemon_free(FlImageDaemon *daemon);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlImageDaemon, fl_image_daemon_free)
