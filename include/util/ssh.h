/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Access to another host with the system's ssh: forwards Unix sockets from there and runs small
 * scripts there.
 *
 * A helper process, like the keeper, runs ssh(1) with a single connection that carries everything.
 * It reconnects when the connection ends, which the sandboxed daemon could not do, and never reads
 * any forwarded data. It only runs the scripts it was started with, and only forwards the sockets
 * named before fl_ssh_seal(). When the daemon exits, however that happens, the helper exits too,
 * closes the connection and removes everything it created here.
 *
 * ssh reads the user's configuration and keys, and never prompts (BatchMode).
 *
 * Threads: one at a time. All functions but ask and take block.
 */
#pragma once

#include "util/error.h"

#define FL_SSH_FORWARDS 4 /* at most */

typedef struct {
    const char *program;        /* for example "ssh"; looked up in $PATH */
    const char *const *options; /* its arguments, NULL-terminated; may be NULL */
    const char *host;           /* may be an alias from ssh_config(5) */
    const char *const *scripts; /* for sh(1), NULL-terminated; arguments are $1, $2, ... One shell
                                   per connection runs them without input, each in its own subshell,
                                   unless it begins with '{': then in the shell itself, which must
                                   not exit, and descriptors that it opens are open until the
                                   connection ends. Must outlive the FlSsh */
    unsigned seconds;           /* timeout for connecting, and for each script */
} FlSshSpec;

typedef struct FlSsh FlSsh;

/* Starts the helper process; does not connect yet. */
FlSsh *fl_ssh_start(const FlSshSpec *spec, GError **error);
/* Waits a few seconds at most for the process to exit. NULL is fine. */
void fl_ssh_free(FlSsh *ssh);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSsh, fl_ssh_free)

/* Forwards the remote socket PATH to a local socket called NAME, on this and every later
 * connection, and returns the local path. Whether anything listens at PATH shows only on
 * connecting. */
const char *fl_ssh_forward(FlSsh *ssh, const char *name, const char *path, GError **error);
/* Whether PATH can be forwarded: some characters have a meaning to ssh. Pure. */
bool fl_ssh_can_forward(const char *path);
/* Forbids forwarding further sockets. */
void fl_ssh_seal(FlSsh *ssh);

/* Runs script number SCRIPT with ARGS (NULL-terminated) and returns its output, up to some tens of
 * kilobytes. If it fails, the error is the message of the script or of ssh. */
char *fl_ssh_run(FlSsh *ssh, unsigned script, const char *const *args, GError **error);
/* Starts a script without waiting. Discards the answer to an earlier call that was not taken. */
void fl_ssh_ask(FlSsh *ssh, unsigned script, const char *const *args);
/* The output of the last fl_ssh_ask(); NULL while it runs, if it failed, or if already taken. Sets
 * DONE if no answer is pending. */
char *fl_ssh_take(FlSsh *ssh, bool *done);

/* Part of ssh's message if it could not forward a connection. */
#define FL_SSH_REFUSED "open failed"
/* The last such message on this connection, or else the last message of ssh or the remote side;
 * NULL if none. Free with g_free(). */
char *fl_ssh_complaint(FlSsh *ssh);
