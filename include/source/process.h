/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A child process that never outlives us.
 *
 * It runs in its own session, so that ^C on our terminal does not reach it and it can be killed
 * together with its children. It has no terminal, no standard input, and only the descriptors it is
 * given. Its output goes to the debug log; the beginning is kept for error messages.
 *
 * The kernel signals it (PR_SET_PDEATHSIG) when the thread that started it exits for any reason. So
 * start it from a thread that lives as long as the child should.
 */
#pragma once

#include "util/error.h"
#include "util/jail.h"

#include <stddef.h>

typedef struct {
    const char *const *argv; /* NULL-terminated; argv[0] is looked up in PATH */
    const int *fds;          /* become descriptors 3, 4, ...; owned by the caller */
    size_t n_fds;
    bool activation;    /* announce FDS in LISTEN_FDS and LISTEN_PID (sd_listen_fds(3)) */
    int death_signal;   /* sent when we die */
    bool no_new_privs;  /* set no_new_privs: it never gains rights that we lack */
    const FlJail *jail; /* prepared; NULL: none */
} FlProcessSpec;

typedef struct FlProcess FlProcess;

FlProcess *fl_process_start(const FlProcessSpec *spec, GError **error);

/* Ends the child and its process group: SIGTERM, a few seconds of waiting, SIGKILL. NULL is fine.
 */
void fl_process_free(FlProcess *process);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlProcess, fl_process_free)

int fl_process_pid(const FlProcess *process);

/* Waits up to WAIT_MS for the child to exit; returns whether it still runs. If not, the error says
 * how it exited and quotes its messages. */
bool fl_process_check(FlProcess *process, unsigned wait_ms, GError **error);

/*
 * Runs a command to completion (killed after SECONDS), in JAIL unless NULL, and returns its output.
 * If it fails, the error is the command's own message without the program's name.
 */
char *fl_process_output(const char *const *argv, const FlJail *jail, unsigned seconds,
                        GError **error);
