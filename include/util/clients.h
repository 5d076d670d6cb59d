/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who is connected to the Unix socket of another process, as the kernel tells it.
 */
#pragma once

#include <stdbool.h>

/* Tells the peer of FD, a connected socket, that nothing more comes, and waits up to TIMEOUT
 * milliseconds for the end of what it sends. False if that does not come. */
bool fl_unix_hang_up(int fd, unsigned timeout);

/*
 * The kernel's list of the sockets in the network namespace of the process that listens at PATH: a
 * descriptor to be read later, when files cannot be opened any more; -1 if it is not to be had. The
 * process is found by a connection, which it has let go of within TIMEOUT milliseconds.
 */
int fl_clients_open(const char *path, unsigned timeout);

/* How many connections to the socket at PATH this process has. */
int fl_clients_own(const char *path);
/* How many connections to the socket at PATH, which may be made only so far that nobody has
 * accepted them, are not of this process; -1 if LIST does not tell. */
int fl_clients_count(int list, const char *path);
