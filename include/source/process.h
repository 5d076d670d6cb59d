/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A child process that never outlives us.
 *
 * It runs in a session of its own, so that ^C on our terminal does not reach it and it can be ended
 * with all of its children, and without a terminal, standard input or any descriptor but those it
 * is given. What it writes goes to the debug log, and its beginning is kept for error messages.
 *
 * The kernel ends it (PR_SET_PDEATHSIG) as soon as the thread that started it is gone, however that
 * happens. So this must be a thread that lives as long as the child shall.
 */
#pragma once

#include "util/error.h"
#include "util/jail.h"

#include <stddef.h>

typedef struct {
    const char *const *argv; /* NULL-terminated; argv[0] is looked up in PATH */
    const int *fds;          /* become descriptors 3, 4, ... ; stay the caller's */
    size_t n_fds;
    bool activation;    /* announce them by LISTEN_FDS and LISTEN_PID (sd_listen_fds(3)) */
    int death_signal;   /* sent when we die */
    bool no_new_privs;  /* it never gets more rights than we have, whatever it runs */
    const FlJail *jail; /* prepared; NULL: none */
} FlProcessSpec;

typedef struct FlProcess FlProcess;

FlProcess *fl_process_start(const FlProcessSpec *spec, GError **error);

/* Ends the child and its process group: asks, waits some seconds, then kills. NULL is fine. */
void fl_process_free(FlProcess *process);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlProcess, fl_process_free)

int fl_process_pid(const FlProcess *process);

/* Whether it runs on after up to WAIT_MS, for one that may be ending. If not, the error says how it
 * ended and quotes what it complained of. */
bool fl_process_check(FlProcess *process, unsigned wait_ms, GError **error);

/*
 * Runs a command that ends by itself (killed after SECONDS), in JAIL unless that is NULL, and
 * returns what it printed. Its failure is an error that consists of what it complained of, without
 * the program's name.
 */
char *fl_process_output(const char *const *argv, const FlJail *jail, unsigned seconds,
                        GError **error);
