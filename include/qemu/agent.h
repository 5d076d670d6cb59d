/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client of the QEMU guest agent (QEMU docs/interop/qemu-ga-ref), for freezing the guest's
 * filesystems.
 *
 * The agent sits behind a serial line: it does not know who asks, answers may be left over from
 * others, and it may not be running at all. So the line is brought into step first
 * (guest-sync-delimited), and nothing waits longer than the time it is given.
 *
 * One thread at a time. Times are milliseconds. Errors are FL_ERROR and begin with "guest agent".
 */
#pragma once

#include "util/error.h"

typedef struct FlAgent FlAgent;

/* Connects to the socket of the agent's channel at PATH and gets an answer from it. */
FlAgent *fl_agent_connect(const char *path, unsigned timeout, GError **error);
/* Takes the connected socket FD (owned from then on, also on failure). */
FlAgent *fl_agent_new_fd(int fd, const char *name, unsigned timeout, GError **error);
void fl_agent_free(FlAgent *agent); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlAgent, fl_agent_free)

/*
 * Freezes all filesystems. Whatever comes of it, also a time-out, the guest may be frozen after:
 * fl_agent_thaw() must follow.
 */
bool fl_agent_freeze(FlAgent *agent, unsigned timeout, GError **error);
bool fl_agent_frozen(FlAgent *agent, unsigned timeout, bool *frozen, GError **error);
/* Harmless in a guest that is not frozen. */
bool fl_agent_thaw(FlAgent *agent, unsigned timeout, GError **error);
