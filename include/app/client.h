/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands to a mount from outside, and what is to be known of a mount point before mounting. */
#pragma once

#include "util/error.h"

/* --status: prints what the daemon of MOUNTPOINT does; the exit status. */
int fl_client_status(const char *mountpoint, bool json);

/* --commit and --abort: returns when all of it is done and the daemon has ended; the exit status.
 */
int fl_client_end(const char *mountpoint, bool commit, bool force);

/* Whether MOUNTPOINT can be mounted on: a folder that is there, empty, and not a mount of ours. */
bool fl_mountpoint_check(const char *mountpoint, GError **error);
