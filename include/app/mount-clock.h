/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The times of mounts of sources that report none, such as NBD servers.
 *
 * Two mounts may show different disks, and tools such as rsync compare times in whole seconds, so
 * mounts of a source differ in these. A file in the state directory has the last second of each
 * source that was mounted in this second.
 */
#pragma once

#include <time.h>

/* The time of a mount of SOURCE that begins now: now or, if an earlier mount had this second or a
 * later one, the next second after it. If the file cannot be used: now. Call before the sandbox is
 * closed. */
struct timespec fl_mount_clock_next(const char *source);
