/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands to a mount from outside, and checks of a mount point before mounting. */
#pragma once

#include "util/error.h"

#include <json-glib/json-glib.h>
#include <stdint.h>

/* --status: prints the status of the daemon of MOUNTPOINT. Returns the exit status. */
int fl_client_status(const char *mountpoint, bool json);
/* --status --watch: refreshes the status each second until the mount ends. */
int fl_client_watch(const char *mountpoint);
/* --list: prints a line for each mount on this machine that is visible to us. Returns the exit
 * status. */
int fl_client_list(bool json);

/* --commit and --abort: returns once the operation is complete and the daemon has exited. Returns
 * the exit status. */
int fl_client_end(const char *mountpoint, bool commit, bool force);

/* --rate on a mount: limits its reads to RATE bytes per second from now on; 0: no limit. Returns
 * the exit status. */
int fl_client_set_rate(const char *mountpoint, uint64_t rate);

/* Whether MOUNTPOINT can be mounted on: an existing, empty folder that is not a fleecefs mount. */
bool fl_mountpoint_check(const char *mountpoint, GError **error);

/* Helpers for the above. Gets the status text of the daemon of MOUNTPOINT, which the caller frees.
 * Returns 0 or an errno: ENOTCONN if the daemon has died, ETIMEDOUT if it does not answer within 5
 * s; a negative errno if it could not be asked. */
int fl_client_ask(const char *mountpoint, char **text);
/* The same for N mounts, which are asked at the same time. */
void fl_client_ask_all(const char *const *mountpoints, guint n, char **texts, int *failed);
/* Reports what such an errno means, and what to do. */
void fl_client_complain(const char *mountpoint, int failed);
/* Does both: returns NULL after reporting an error. */
char *fl_client_ask_loudly(const char *mountpoint);
/* From STATUS: the number of failed disks, and the number of other disks with read errors. */
guint fl_client_failed_disks(JsonObject *status);
guint fl_client_erring_disks(JsonObject *status);
/* Whether to print colours: on a terminal, unless NO_COLOR is set. */
bool fl_client_wants_colour(void);
