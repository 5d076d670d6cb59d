/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving up rights that a mount does not need.
 *
 * The daemon reads what servers and VMs send, and should such bytes ever take it over, they should
 * find little. It goes by stages:
 *
 * 1. fl_sandbox_new() and fl_sandbox_allow...(): what the sources will take is collected, while all
 *    rights are there. Nothing is given up; descriptors may be opened, processes started.
 * 2. The keeper (util/keeper.h) is started: what still takes a right is its to do.
 * 3. fl_sandbox_close(): in each thread, in this order: no new privileges; of the file system only
 *    what was allowed (Landlock); no capability but those that stage 1 found a need for; last,
 *    since it forbids the calls that the others are made of, the filter of system calls. From then
 *    on no process and no program is started, no file's mode, owner or times change, no signal goes
 *    to another process than a server of ours, and no Unix socket is made (but for libvirt).
 *
 * No thread gets out of it, nor any that they start. What the kernel or the build lacks is told by
 * fl_sandbox_close(). A build with sanitizers has neither Landlock nor a filter, which would keep
 * those from their reports.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

typedef enum {
    FL_SANDBOX_READ = 1 << 0,           /* files and folders */
    FL_SANDBOX_WRITE = 1 << 1,          /* files; new ones may be made in a folder */
    FL_SANDBOX_REMOVE = 1 << 2,         /* files in a folder */
    FL_SANDBOX_REMOVE_FOLDERS = 1 << 3, /* empty folders in a folder */
} FlSandboxAccess;

typedef struct FlSandbox FlSandbox;

/* Libraries may be read, and of /proc what is about this process; nothing else yet. */
FlSandbox *fl_sandbox_new(void);
void fl_sandbox_free(FlSandbox *sandbox); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSandbox, fl_sandbox_free)

/* Allows PATH, with all that is in it, as it is now: what is put in its place later is another.
 * What is not there, or is NULL, is no matter. Descriptors that are open stay as they are. Root's
 * capability to override modes is kept only if it takes that here. */
void fl_sandbox_allow(FlSandbox *sandbox, const char *path, FlSandboxAccess access);
/* What looking up the names of hosts and users takes, and certificates. */
void fl_sandbox_allow_names(FlSandbox *sandbox);
/* The Unix socket at PATH may be connected to, by way of the keeper. */
void fl_sandbox_allow_socket(FlSandbox *sandbox, const char *path);
/* Any Unix socket that modes allow: for libraries that connect by themselves. */
void fl_sandbox_allow_sockets(FlSandbox *sandbox);
/* The process group of PID, a child of ours, may be sent signals. */
void fl_sandbox_allow_signals(FlSandbox *sandbox, pid_t pid);
/* Notes something that is not as it should be: see fl_sandbox_close(). */
void fl_sandbox_miss(FlSandbox *sandbox, const char *what);

/* What fl_sandbox_allow_socket() was told; ended by NULL, belongs to SANDBOX. */
char **fl_sandbox_sockets(FlSandbox *sandbox);

/*
 * Closes the sandbox around all threads. Only after the user's own commands have been started: one
 * that gets capabilities back at its start would lose PR_SET_PDEATHSIG (commit_creds() in the
 * kernel forgets it then). Returns what is missing of it, of char *, ended by NULL: empty if it is
 * as described above. To be freed with g_strfreev().
 */
char **fl_sandbox_close(FlSandbox *sandbox);
