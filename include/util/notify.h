/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Notifies the service manager (sd_notify(3), "Type=notify") with a datagram to the Unix socket
 * named by $NOTIFY_SOCKET.
 */
#pragma once

/* Returns a socket connected to the service manager, or -1 if there is none. Call before closing
 * the sandbox. Unsets the variable, since our child processes are not the service. */
int fl_notify_open(void);
/* Sends STATE, for example "READY=1". FD may be -1; errors are ignored. */
void fl_notify(int fd, const char *state);
