/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the two sides of util/ssh.c have in common: messages, each a packet of a socket. */
#pragma once

#include <glib.h>
#include <limits.h>
#include <stdint.h>
#include <sys/types.h>
#include <stdbool.h>
#include "util/ssh.h"

#define FL_SSH_MESSAGE 65536 /* bytes that one can have */

enum { FL_SSH_RUN = 'r', FL_SSH_FORWARD = 'f', FL_SSH_SEAL = 's', FL_SSH_COMPLAINT = 'c' };

typedef struct {
    uint32_t number; /* of the question; its answer has the same */
    uint8_t what;    /* a question: one of those above; an answer: whether it went well */
    uint8_t script;
    uint16_t count; /* of strings, each ended by a zero; an answer is one without */
} FlSshHead;

/* All of it is made before the fork: the process may not allocate. */
typedef struct {
    int channel;
    char *program; /* path */
    char *folder, *control;
    char **master;  /* words that make the connection, and run a shell there */
    char **forward; /* words that ask it for a forwarding, which goes into the slot */
    unsigned slot;
    char mark[32]; /* that no script prints: what it prints is between two lines of it */
    const char *const *scripts;
    unsigned n_scripts, seconds;

    /* The process's own. */
    char (*forwards)[2 * PATH_MAX + 2]; /* "HERE:THERE", FL_SSH_FORWARDS */
    unsigned n_forwards;
    bool sealed, wanted;
    pid_t pid;                  /* of the connection; 0: there is none */
    int pidfd, errors, in, out; /* in: to the shell */
    gint64 next_try;            /* g_get_monotonic_time() */
    unsigned wait_ms;
    char complaint[4096];
    char *message, *output, *text; /* FL_SSH_MESSAGE each; output: of what was run last */
} FlSshLife;

/* Never returns. In a child of a process with threads. */
_Noreturn void fl_ssh_live(FlSshLife *life);
