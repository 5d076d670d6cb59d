/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signals that ask us to end, while a snapshot begins.
 *
 * They are blocked then: what was begun in a VM must be undone, and a frozen guest thawed. They
 * stay pending, for the mount to end by if it gets that far, and until then whatever waits for a
 * VM, an agent or a server gives up when there is one, as if its time was up. The thread says
 * where that is allowed: what undoes something may not be interrupted.
 */
#pragma once

#include "util/error.h"

#include <signal.h>

/* How long a wait may go on without asking again. */
#define FL_INTERRUPT_MS 100

/* SIGINT, SIGTERM and SIGHUP. HOW: SIG_BLOCK or SIG_UNBLOCK, of this thread. */
void fl_interrupt_mask(int how);
/* Whether waits of this thread may be interrupted, not at first. Returns what was before. */
bool fl_interrupt_allow(bool allowed);
/* Whether this is allowed, and such a signal is pending. */
bool fl_interrupted(void);
/* The same with an error. */
bool fl_interrupt_check(GError **error);
