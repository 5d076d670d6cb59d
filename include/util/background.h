/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Daemonizing once the work is ready.
 *
 * The process forks at once, so that everything started later is a child of the process that stays.
 * The first process only waits until the second is ready or has exited. Until then both share
 * stderr and errors go there. In the foreground a service manager may be notified instead.
 */
#pragma once

#include "util/error.h"

typedef struct {
    int notify;  /* pipe to the waiting process; -1 in the foreground */
    int manager; /* socket of the service manager, in the foreground (util/notify.h); -1: none */
} FlBackground;

/* Starts out in the foreground. */
void fl_background_init(FlBackground *background);

/*
 * Forks. Returns true in the process that does the work; false in the one that waited, which must
 * exit with *STATUS. Call before any thread starts.
 */
bool fl_background_start(FlBackground *background, int *status, GError **error);
/* The work is ready. In the background: lets the waiting process exit with 0, redirects stdin,
 * stdout and stderr to /dev/null and logs to syslog. In the foreground: notifies the service
 * manager. */
void fl_background_ready(FlBackground *background);
/* The work is about to end: notifies the service manager when in the foreground. */
void fl_background_ending(FlBackground *background);
