/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Drops the rights that a mount does not need.
 *
 * The daemon parses what servers and VMs send. If such data ever takes it over, there should be
 * little to gain. Stages:
 *
 * 1. fl_sandbox_new() and fl_sandbox_allow...() collect what the sources need, with all rights
 *    still in place. Descriptors can be opened and processes started.
 * 2. The keeper (util/keeper.h) is started; it does whatever still needs those rights.
 * 3. fl_sandbox_close() applies, to each thread and in this order: no_new_privs; Landlock, which
 *    limits the file system to what was allowed; dropping all capabilities but those that stage 1
 *    found necessary; last, since it forbids the system calls that the others use, the seccomp
 *    filter. From then on the daemon cannot start processes or programs, change the mode, owner or
 *    times of files, signal processes other than our servers, or create Unix sockets (except for
 *    libvirt).
 *
 * No thread can leave the sandbox, nor can threads started later. fl_sandbox_close() reports what
 * the kernel or the build lacks. Builds with sanitizers use neither Landlock nor the seccomp
 * filter, which would block sanitizer reports.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

typedef enum {
    FL_SANDBOX_READ = 1 << 0,           /* files and folders */
    FL_SANDBOX_WRITE = 1 << 1,          /* files; also creating files in a folder */
    FL_SANDBOX_REMOVE = 1 << 2,         /* files in a folder */
    FL_SANDBOX_REMOVE_FOLDERS = 1 << 3, /* empty folders in a folder */
} FlSandboxAccess;

typedef struct FlSandbox FlSandbox;

/* Initially allows only reading libraries and this process's entries in /proc. */
FlSandbox *fl_sandbox_new(void);
void fl_sandbox_free(FlSandbox *sandbox); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSandbox, fl_sandbox_free)

/* Allows ACCESS to PATH and everything below it. The rule applies to the current inode, not to one
 * put in its place later. A PATH that is missing or NULL is ignored. Open descriptors are not
 * affected. Root keeps its capability to override file modes only if PATH needs it. */
void fl_sandbox_allow(FlSandbox *sandbox, const char *path, FlSandboxAccess access);
/* Allows what is needed to look up host and user names and to read certificates. */
void fl_sandbox_allow_names(FlSandbox *sandbox);
/* Allows connecting to the Unix socket at PATH through the keeper. */
void fl_sandbox_allow_socket(FlSandbox *sandbox, const char *path);
/* Allows any Unix socket that file modes permit: for libraries that connect by themselves. */
void fl_sandbox_allow_sockets(FlSandbox *sandbox);
/* Allows sending signals to the process group of PID, a child of ours. */
void fl_sandbox_allow_signals(FlSandbox *sandbox, pid_t pid);
/* Records a shortcoming, for fl_sandbox_close() to return. */
void fl_sandbox_miss(FlSandbox *sandbox, const char *what);

/* The sockets given to fl_sandbox_allow_socket(); NULL-terminated, owned by SANDBOX. */
char **fl_sandbox_sockets(FlSandbox *sandbox);

/*
 * Closes the sandbox around all threads. Call after the user's own commands have been started: a
 * command that regains capabilities on exec would lose PR_SET_PDEATHSIG (the kernel's
 * commit_creds() clears it). Returns a NULL-terminated list of what is missing; empty if the
 * sandbox is as described above. Free with g_strfreev().
 */
char **fl_sandbox_close(FlSandbox *sandbox);
