/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving up rights that a mount does not need.
 *
 * The daemon reads what servers and VMs send, and should such bytes ever take it over, they should
 * find little. Behind the sandbox, which no thread gets out of, there are
 * - no capabilities but those to reach what belongs to QEMU's user and to end what was started;
 * - no new privileges;
 * - where libseccomp is built in, of the kernel's calls those that a daemon is made of: it starts
 * no program and no process;
 * - where the kernel has Landlock, of the file system what was allowed here.
 *
 * What is missing in the kernel or in the build is left out without a word; a build with sanitizers
 * has neither of the last two, which would keep those from their reports.
 */
#pragma once

typedef enum {
    FL_SANDBOX_READ = 1 << 0,           /* files and folders */
    FL_SANDBOX_WRITE = 1 << 1,          /* files; new ones may be made in a folder */
    FL_SANDBOX_REMOVE = 1 << 2,         /* files in a folder */
    FL_SANDBOX_REMOVE_FOLDERS = 1 << 3, /* empty folders in a folder */
} FlSandboxAccess;

typedef struct FlSandbox FlSandbox;

/* Devices and libraries may be read, and /proc; nothing else yet. */
FlSandbox *fl_sandbox_new(void);
/* Allows PATH, with all that is in it, as it is now: what is put in its place later is another.
 * What is not there, or is NULL, is no matter. Descriptors that are open stay as they are. */
void fl_sandbox_allow(FlSandbox *sandbox, const char *path, FlSandboxAccess access);
/* What looking up the names of hosts and users takes, and certificates. */
void fl_sandbox_allow_names(FlSandbox *sandbox);

/*
 * Closes the sandbox around all threads, and frees it. Only after the user's own commands have been
 * started: one that gets capabilities back at its start would not hear of our death any more
 * (commit_creds() in the kernel forgets PR_SET_PDEATHSIG then).
 */
void fl_sandbox_close(FlSandbox *sandbox);
