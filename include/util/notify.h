/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Telling the service manager (sd_notify(3), "Type=notify"): a datagram to the Unix socket that
 * NOTIFY_SOCKET names.
 */
#pragma once

/* A socket that leads there, or -1 if nobody wants to be told. Before the sandbox is closed. The
 * variable is removed: what we start is not the service. */
int fl_notify_open(void);
/* Says STATE, "READY=1" and the like. FD may be -1; what cannot be said is no matter. */
void fl_notify(int fd, const char *state);
