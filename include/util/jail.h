/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A jail for programs that parse untrusted data on our behalf: QEMU's, which read disk images.
 *
 * In a private mount namespace, the program sees libraries and the files given to it, all
 * read-only, and nothing else: no /proc, no home, no sockets. It has no network, cannot start
 * processes, and runs as the user nobody. If that user cannot read a file and we are root, the
 * program keeps CAP_DAC_READ_SEARCH, still as nobody or, where a file system checks user ids
 * itself, as root with only that capability. For an unprivileged user the program gets a user
 * namespace without capabilities. A seccomp filter limits the system calls.
 *
 * Stages: fl_jail_new() and fl_jail_add_file() before the program starts; fl_jail_prepare(), which
 * tests the jail in a separate process, since a child that fails between fork and exec cannot
 * report why; fl_jail_enter() in the child.
 */
#pragma once

#include "util/error.h"

typedef struct FlJail FlJail;

/* Creates a jail for PROGRAM, which is looked up in $PATH. */
FlJail *fl_jail_new(const char *program);
void fl_jail_free(FlJail *jail); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlJail, fl_jail_free)

/* Makes the file or block device at PATH (absolute) visible under the same path. */
void fl_jail_add_file(FlJail *jail, const char *path);

/* Makes the folder at PATH visible, with everything in it now and later. */
void fl_jail_add_folder(FlJail *jail, const char *path);
/* Requires the file at PATH, which is in such a folder, to be readable too. */
void fl_jail_try_file(FlJail *jail, const char *path);

/* Finds the least privilege that can read the files. Returns false with an error if the kernel or
 * our own privileges do not allow a jail. */
bool fl_jail_prepare(FlJail *jail, GError **error);

/* To be called between fork and exec; uses only system calls. Exits the process on failure. Set
 * PR_SET_PDEATHSIG after this call. */
void fl_jail_enter(const FlJail *jail);

/* Makes fl_jail_prepare() fail from now on; for debugging. */
void fl_jail_disable(void);
