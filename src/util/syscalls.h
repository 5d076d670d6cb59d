/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* System call filters (libseccomp). Private to util/. */
#pragma once

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Differs between mounts. */
typedef struct {
    bool unix_sockets;   /* may be created and connected */
    const pid_t *groups; /* process groups that may be sent signals */
    size_t n_groups;
} FlSyscalls;

/*
 * Limits all threads to the calls of a daemon without children. Other calls fail with ENOSYS, for
 * which libraries have fallbacks. The caller must have set PR_SET_NO_NEW_PRIVS. False if no filter
 * could be installed.
 */
bool fl_syscalls_filter(const FlSyscalls *syscalls);

/*
 * Builds a filter for seccomp(2) for a QEMU program that serves images through inherited
 * descriptors: allows execve(2), but no new sockets or signals. Free PROGRAM->filter with g_free().
 */
bool fl_syscalls_program(struct sock_fprog *program);

/* Limits the process to computing, and to reading and writing open descriptors. The caller must
 * have set PR_SET_NO_NEW_PRIVS. False if no filter could be installed. */
bool fl_syscalls_confine(void);
