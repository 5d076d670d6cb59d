/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Going to the background once the work is ready.
 *
 * The process forks at once, so that what it starts are children of the one that stays; the first
 * process waits, passing on nothing, until the second is ready or has ended. Errors go to stderr
 * until then, because both share it. In the foreground there is a service manager, perhaps.
 */
#pragma once

#include "util/error.h"

typedef struct {
    int notify;  /* to the waiting process; -1 in the foreground */
    int manager; /* to the service manager, in the foreground (util/notify.h); -1: there is none */
} FlBackground;

/* In the foreground, until it goes elsewhere. */
void fl_background_init(FlBackground *background);

/*
 * Forks. True in the process that does the work. False in the one that waited, with *STATUS as the
 * status to exit with. Call before any thread starts.
 */
bool fl_background_start(FlBackground *background, int *status, GError **error);
/* The work is ready: lets the waiting process exit with 0, gives up stdin, stdout and stderr, and
 * has messages go to syslog; in the foreground tells the service manager. */
void fl_background_ready(FlBackground *background);
/* The work is about to end: in the foreground tells the service manager. */
void fl_background_ending(FlBackground *background);
