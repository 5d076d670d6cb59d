/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another host, by the system's ssh: Unix sockets there that are reached here, and small scripts
 * that are run there.
 *
 * A process of its own, like the keeper, has ssh(1): one connection, over which everything goes. It
 * makes another when that one ends, which the daemon in its sandbox could not; it never reads a
 * byte of what is forwarded. It can run the scripts that it was started with and no others, and
 * forwards the sockets that it was told of before fl_ssh_seal(). It ends when the daemon does,
 * however that happens, with the connection and all that was made here.
 *
 * ssh reads the user's configuration and keys, and never asks anybody anything (BatchMode).
 *
 * Threads: one at a time. All functions but ask and take block.
 */
#pragma once

#include "util/error.h"

#define FL_SSH_FORWARDS 4 /* at most */

typedef struct {
    const char *program;        /* as "ssh", looked up in PATH */
    const char *const *options; /* words for it, ended by NULL; may be NULL */
    const char *host;           /* may be an alias of its configuration */
    const char *const *scripts; /* for sh(1), ended by NULL; arguments are $1, $2, ... They have
                                   no input, and are run by one shell, each in a subshell of its
                                   own. Must outlive the FlSsh */
    unsigned seconds;           /* for a connection to come about, and for a script */
} FlSshSpec;

typedef struct FlSsh FlSsh;

/* Starts the process; nothing is connected to yet. */
FlSsh *fl_ssh_start(const FlSshSpec *spec, GError **error);
/* Waits until the process has ended, some seconds at most. NULL is fine. */
void fl_ssh_free(FlSsh *ssh);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSsh, fl_ssh_free)

/* Makes the socket PATH there reachable here, now and over every connection to come, as a socket
 * called NAME, whose path is returned. Whether somebody listens there is seen by who connects. */
const char *fl_ssh_forward(FlSsh *ssh, const char *name, const char *path, GError **error);
/* Whether PATH can be forwarded: ssh reads some characters in it as its own. Pure. */
bool fl_ssh_can_forward(const char *path);
/* No other socket is forwarded from now on. */
void fl_ssh_seal(FlSsh *ssh);

/* Runs SCRIPT, by its number, with ARGS (ended by NULL), and returns what it printed, up to some
 * tens of kilobytes. Its failure is an error that consists of what it, or ssh, complained of. */
char *fl_ssh_run(FlSsh *ssh, unsigned script, const char *const *args, GError **error);
/* Has it run without waiting. A question whose answer was not taken is forgotten by the next one.
 */
void fl_ssh_ask(FlSsh *ssh, unsigned script, const char *const *args);
/* What the script of the last fl_ssh_ask() printed; NULL while it runs, if it failed, or when it
 * was taken before. DONE: no answer will come any more. */
char *fl_ssh_take(FlSsh *ssh, bool *done);

/* What ssh, or the other side, had to say last of what it was asked to forward; NULL: nothing. To
 * be freed with g_free(). */
char *fl_ssh_complaint(FlSsh *ssh);
