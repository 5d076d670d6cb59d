/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An NBD server started by us.
 *
 * The server inherits a listening Unix socket as descriptor 3. The socket is unlinked as soon as it
 * listens and reached through a descriptor of ours, so that nobody else can connect and nothing is
 * left behind, however we exit. The kernel signals the server when the thread that started it exits
 * (PR_SET_PDEATHSIG), so start it from a thread that lives as long as the mount.
 */
#pragma once

#include "util/error.h"
#include "util/jail.h"
#include "util/sandbox.h"

typedef struct {
    const char *const *argv; /* NULL-terminated */
    int extra_fd;            /* becomes descriptor 4; owned by the caller; -1: none */
    bool activation;         /* use systemd socket activation: LISTEN_FDS=1, LISTEN_PID */
    int death_signal;        /* sent when we die */
    const FlJail *jail;      /* prepared; NULL: none */
} FlServerSpec;

typedef struct FlServer FlServer;

/* A failure to start shows only at the first connection: see fl_server_check(). */
FlServer *fl_server_new(const FlServerSpec *spec, GError **error);
/* Ends the server and all its children; waits a few seconds at most. NULL is fine. */
void fl_server_free(FlServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlServer, fl_server_free)

/* An O_PATH descriptor of the listening socket: connect(2) to /proc/self/fd/N. Owned by SERVER. */
int fl_server_socket(const FlServer *server);
/* The server's process id. */
int fl_server_pid(const FlServer *server);
/* Allows what is needed to end the server. */
void fl_server_allow(const FlServer *server, FlSandbox *sandbox);

/* Milliseconds to wait for a server that no longer answers to exit. */
#define FL_SERVER_CHECK_MS 500
/*
 * Call after a connection failed. Returns false if the server has exited or does so within WAIT_MS;
 * the error says how it exited and quotes its messages.
 */
bool fl_server_check(FlServer *server, unsigned wait_ms, GError **error);
