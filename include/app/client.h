/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands to a mount from outside, and what is to be known of a mount point before mounting. */
#pragma once

#include "util/error.h"

#include <json-glib/json-glib.h>

/* --status: prints what the daemon of MOUNTPOINT does; the exit status. */
int fl_client_status(const char *mountpoint, bool json);
/* --status --watch: shows it anew each second until the mount ends. */
int fl_client_watch(const char *mountpoint);
/* --list: prints a line for each mount of this machine that we can see; the exit status. */
int fl_client_list(bool json);

/* --commit and --abort: returns when all of it is done and the daemon has ended; the exit status.
 */
int fl_client_end(const char *mountpoint, bool commit, bool force);

/* Whether MOUNTPOINT can be mounted on: a folder that is there, empty, and not a mount of ours. */
bool fl_mountpoint_check(const char *mountpoint, GError **error);

/* For these. What the daemon of MOUNTPOINT says of itself, to be freed: 0, or an errno: ENOTCONN if
 * it has died, ETIMEDOUT if it does not answer. */
int fl_client_ask(const char *mountpoint, char **text);
/* Says what such an errno means, and what to do. */
void fl_client_complain(const char *mountpoint, int failed);
/* Both at once: NULL after a message. */
char *fl_client_ask_loudly(const char *mountpoint);
/* How many disks have failed, by what it said. */
guint fl_client_failed_disks(JsonObject *status);
/* Whether what is printed may have colours: on a terminal, unless NO_COLOR is set. */
bool fl_client_wants_colour(void);
