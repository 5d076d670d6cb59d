/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counts the clients connected to another process's Unix socket, from the kernel's socket list.
 */
#pragma once

#include <stdbool.h>

/* Leaves the NBD server on FD, a new connection, with NBD_OPT_ABORT (QEMU prints an error when a
 * client just hangs up) and waits up to TIMEOUT milliseconds for EOF. Returns false if that does
 * not come. */
bool fl_unix_leave_nbd(int fd, unsigned timeout);

/*
 * Opens /proc/PID/net/unix of the NBD server listening at PATH: the descriptor can still be read
 * when the sandbox no longer allows opening files. Returns -1 if that is not possible. Connects to
 * find the process, then waits up to TIMEOUT milliseconds for the server to close that connection.
 */
int fl_clients_open(const char *path, unsigned timeout);

/* The number of connections that this process has to the socket at PATH. */
int fl_clients_own(const char *path);
/* The number of connections to the socket at PATH from other processes, including ones not accepted
 * yet; -1 if LIST does not tell. */
int fl_clients_count(int list, const char *path);
