/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mount by its identity, not by its path.
 *
 * Who owns a folder above a mount point can rename it and put something else in its place. So the
 * folder that holds the mount point is kept open (it cannot move the mount point itself: the kernel
 * refuses to rename one), and what is found there is unmounted only if it is the same mount: the
 * device and, from Linux 5.8 on, the id of the mount. Nothing within the mount is kept open, which
 * would keep others from unmounting it.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>

typedef struct FlMountpoint FlMountpoint;

/* Of what is mounted at PATH just now, which must be a FUSE file system. The file system is not
 * asked for anything, so whoever serves it may call this. */
FlMountpoint *fl_mountpoint_new(const char *path, GError **error);
void fl_mountpoint_free(FlMountpoint *mountpoint); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlMountpoint, fl_mountpoint_free)

/* The folder that the mount point is in: an O_PATH descriptor. */
int fl_mountpoint_folder(const FlMountpoint *mountpoint);
/* The device number, as "MAJOR:MINOR". */
const char *fl_mountpoint_device(const FlMountpoint *mountpoint);

/*
 * Opens (O_PATH) the mount, if it is still there; -1 with errno, which is ESTALE if something else
 * is. To unmount: umount2() of /proc/self/fd/N, or of where that leads. Only system calls.
 */
int fl_mountpoint_open(const FlMountpoint *mountpoint);
