/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving up rights that a mount does not need.
 *
 * The daemon reads what servers and VMs send, and should such bytes ever take it over, they should
 * find little. An unprivileged user's daemon has nothing to give up: it cannot refuse new privileges,
 * because it needs the set-user-ID fusermount3 to unmount.
 */
#pragma once

/*
 * Gives up all capabilities but those to unmount, to reach files and sockets of others, and to end what
 * was started; and refuses new privileges where unmounting allows it. For the calling thread and those
 * that it starts from now on. Once mounted, and after the user's own commands have been started: one
 * that gets capabilities back at its start would not hear of our death any more (commit_creds() in
 * the kernel forgets PR_SET_PDEATHSIG then).
 */
void fl_fence(void);
