/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A filter of system calls by libseccomp. Private to util/. */
#pragma once

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* What differs from mount to mount. */
typedef struct {
    bool unix_sockets;   /* they may be made and connected */
    const pid_t *groups; /* process groups that may be sent signals */
    size_t n_groups;
} FlSyscalls;

/*
 * Leaves all threads the calls that a daemon without children is made of; the others are answered
 * as if the kernel did not have them (ENOSYS), for which libraries are prepared. The caller has
 * given up new privileges. False if that cannot be had, here or at all.
 */
bool fl_syscalls_filter(const FlSyscalls *syscalls);

/*
 * The same as a program for seccomp(2), for one of QEMU's that serves images to its standard
 * descriptors and those that it was given: with execve(2), and without any new socket or signal.
 * PROGRAM->filter is to be freed with g_free().
 */
bool fl_syscalls_program(struct sock_fprog *program);

/* Leaves the process what computing takes, and to read and write what is open. The caller has given
 * up new privileges. False if that cannot be had. */
bool fl_syscalls_confine(void);
