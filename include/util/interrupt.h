/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Termination signals while a snapshot begins.
 *
 * They are blocked during that time, since whatever was begun in a VM must be undone and a frozen
 * guest thawed. They stay pending, and end the mount once it is up. Until then anything that waits
 * for a VM, an agent or a server gives up when such a signal is pending, as if it had timed out. A
 * thread enables this only where it is safe: cleaning up must not be interrupted.
 */
#pragma once

#include "util/error.h"

#include <signal.h>

/* Interval at which waits check for pending signals. */
#define FL_INTERRUPT_MS 100

/*
 * From now on these signals call FUNCTION(OPAQUE) in the main loop, until fl_interrupt_ignore().
 * Call once. Replaces g_unix_signal_add(), which needs its own thread.
 */
bool fl_interrupt_watch(void (*function)(void *opaque), void *opaque, GError **error);
/* Ignores these signals from now on. */
void fl_interrupt_ignore(void);

/* Blocks or unblocks SIGINT, SIGTERM and SIGHUP in this thread. HOW: SIG_BLOCK or SIG_UNBLOCK. */
void fl_interrupt_mask(int how);
/*
 * Starts a thread that never receives these signals: they are left to the main thread. Otherwise as
 * g_thread_try_new(): returns NULL with ERROR set if there are too many threads.
 */
GThread *fl_thread_start(const char *name, GThreadFunc function, void *opaque, GError **error);

/* Sets whether waits of this thread can be interrupted; off by default. Returns the old value. */
bool fl_interrupt_allow(bool allowed);
/* Whether interruption is allowed and a signal is pending. */
bool fl_interrupted(void);
/* The same, as an error: returns false if interrupted. */
bool fl_interrupt_check(GError **error);
