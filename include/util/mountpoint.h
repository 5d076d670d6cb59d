/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Identifies a mount by what it is, not by its path.
 *
 * The owner of a folder above a mount point can rename that folder and put something else in its
 * place. So we keep the folder that contains the mount point open (the mount point itself cannot be
 * moved: the kernel refuses to rename one) and unmount what is found there only if it is the same
 * mount: same device and, since Linux 5.8, same mount id. Nothing inside the mount is kept open, as
 * that would keep others from unmounting it.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>

typedef struct FlMountpoint FlMountpoint;

/* Records what is mounted at PATH now, which must be a FUSE file system. Sends no request to the
 * file system, so the process that serves it can call this. */
FlMountpoint *fl_mountpoint_new(const char *path, GError **error);
void fl_mountpoint_free(FlMountpoint *mountpoint); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlMountpoint, fl_mountpoint_free)

/* An O_PATH descriptor of the folder that contains the mount point. */
int fl_mountpoint_folder(const FlMountpoint *mountpoint);
/* The device number, as "MAJOR:MINOR". */
const char *fl_mountpoint_device(const FlMountpoint *mountpoint);

/*
 * Opens the mount with O_PATH if it is still there. Returns -1 with errno, ESTALE if something else
 * is there. To unmount, call umount2() on /proc/self/fd/N or the path it links to. Uses only system
 * calls.
 */
int fl_mountpoint_open(const FlMountpoint *mountpoint);
