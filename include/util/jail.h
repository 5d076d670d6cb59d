/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A jail for programs that read strangers' bytes on our behalf: QEMU's, which parse disk images.
 *
 * In a mount namespace of its own such a program finds libraries and the files that it was given,
 * all read-only, and nothing else: no /proc, no home, no socket. It has no network, starts no
 * process, and is nobody; where that does not suffice to read a file, and we are root, it is nobody
 * with the one capability to read (CAP_DAC_READ_SEARCH), or, where a file system looks at users
 * itself, root with no more than that. An ordinary user's program has a user namespace, and in it
 * no capability. A filter of system calls leaves it what it is made of.
 *
 * Stages: fl_jail_new() and fl_jail_add_file(), while nothing runs yet; fl_jail_prepare(), which
 * tries all of it in a process of its own, since a child that fails between fork and exec cannot
 * say why; fl_jail_enter() in the child.
 */
#pragma once

#include "util/error.h"

typedef struct FlJail FlJail;

/* For PROGRAM, which is looked up in PATH. */
FlJail *fl_jail_new(const char *program);
void fl_jail_free(FlJail *jail); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlJail, fl_jail_free)

/* Shows the file or block device at PATH, which is absolute, under that name. */
void fl_jail_add_file(FlJail *jail, const char *path);

/* Shows the folder at PATH with all that is in it, now and later. */
void fl_jail_add_folder(FlJail *jail, const char *path);
/* The file at PATH, which is in such a folder, has to be readable, too. */
void fl_jail_try_file(FlJail *jail, const char *path);

/* Finds out with how little right the files can be read. False with an error if the kernel, or the
 * rights that we have ourselves, do not suffice for a jail. */
bool fl_jail_prepare(FlJail *jail, GError **error);

/* Between fork and exec: only system calls. Ends the process if it fails. The signal that the death
 * of the parent is to send has to be set after this. */
void fl_jail_enter(const FlJail *jail);

/* From now on fl_jail_prepare() fails: for debugging. */
void fl_jail_disable(void);
