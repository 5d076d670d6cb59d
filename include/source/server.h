/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An NBD server that we start ourselves.
 *
 * The server gets a listening Unix socket as descriptor 3. The socket's name is removed as soon as
 * it listens; it is reached through a descriptor of ours, so that nobody else can connect and
 * nothing is left behind, however we end. The kernel ends the server when the thread that started
 * it has gone (PR_SET_PDEATHSIG), so this must be a thread that lives as long as the mount.
 */
#pragma once

#include "util/error.h"
#include "util/jail.h"
#include "util/sandbox.h"

typedef struct {
    const char *const *argv; /* NULL-terminated */
    int extra_fd;            /* becomes descriptor 4; stays the caller's; -1: none */
    bool activation;         /* by systemd socket activation: LISTEN_FDS=1, LISTEN_PID */
    int death_signal;        /* sent when we die */
    const FlJail *jail;      /* prepared; NULL: none */
} FlServerSpec;

typedef struct FlServer FlServer;

/* Whether it could start shows when the first connection is tried: see fl_server_check(). */
FlServer *fl_server_new(const FlServerSpec *spec, GError **error);
/* Ends the server and all its children, and waits for it, some seconds at most. NULL is fine. */
void fl_server_free(FlServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlServer, fl_server_free)

/* An O_PATH descriptor of the listening socket: connect(2) to /proc/self/fd/N. Belongs to SERVER.
 */
int fl_server_socket(const FlServer *server);
/* The server's process id. */
int fl_server_pid(const FlServer *server);
/* Allows what ending the server takes. */
void fl_server_allow(const FlServer *server, FlSandbox *sandbox);

/* How long a server that no longer answers may take to end, in milliseconds. */
#define FL_SERVER_CHECK_MS 500
/*
 * To be asked when a connection failed: false, with how the server ended and what it complained of,
 * if it has ended, or does so within WAIT_MS.
 */
bool fl_server_check(FlServer *server, unsigned wait_ms, GError **error);
