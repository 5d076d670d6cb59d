/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by the two processes of util/ssh.c: messages, each a packet of a SOCK_SEQPACKET socket. */
#pragma once

#include <glib.h>
#include <limits.h>
#include <stdint.h>
#include <sys/types.h>
#include <stdbool.h>
#include "util/ssh.h"

#define FL_SSH_MESSAGE 65536 /* maximum size, bytes */

enum { FL_SSH_RUN = 'r', FL_SSH_FORWARD = 'f', FL_SSH_SEAL = 's', FL_SSH_COMPLAINT = 'c' };

typedef struct {
    uint32_t number; /* of the request; its answer has the same */
    uint8_t what;    /* in a request: one of the above; in an answer: whether it succeeded */
    uint8_t script;
    uint16_t count; /* of NUL-terminated strings; an answer is one string without NUL */
} FlSshHead;

/* All of it is allocated before the fork: the process must not allocate. */
typedef struct {
    int channel;
    char *program; /* path */
    char *folder, *control;
    char **master;  /* command that connects and runs a remote shell */
    char **forward; /* command that requests a forwarding; [slot]: its -L */
    unsigned slot;
    char mark[32]; /* random; delimits a script's output */
    const char *const *scripts;
    unsigned n_scripts, seconds;

    /* Used by the forked process only. */
    char (*forwards)[2 * PATH_MAX + 2]; /* "HERE:THERE", FL_SSH_FORWARDS */
    unsigned n_forwards;
    bool sealed, wanted;
    pid_t pid;                  /* of the connection; 0: none */
    int pidfd, errors, in, out; /* in: to the shell */
    gint64 next_try;            /* g_get_monotonic_time() */
    unsigned wait_ms;
    char complaint[4096];
    char *message, *output, *text; /* FL_SSH_MESSAGE each; output: of the last command */
} FlSshLife;

/* Never returns. Called in a forked child of a process with threads. */
_Noreturn void fl_ssh_live(FlSshLife *life);
