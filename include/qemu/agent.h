/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client of the QEMU guest agent (QEMU docs/interop/qemu-ga-ref), for freezing the guest's
 * filesystems.
 *
 * The agent is behind a serial line: it cannot tell its clients apart, replies to earlier clients
 * may still be queued, and it may not be running at all. So each connection first synchronizes with
 * it (guest-sync-delimited), and every call has a timeout.
 *
 * One thread at a time. Times are milliseconds. Errors are FL_ERROR and begin with "guest agent".
 */
#pragma once

#include "util/error.h"

typedef struct FlAgent FlAgent;

/* Connects to the socket of the agent's channel at PATH and synchronizes with the agent. */
FlAgent *fl_agent_connect(const char *path, unsigned timeout, GError **error);
/* Takes ownership of the connected socket FD, also on failure. */
FlAgent *fl_agent_new_fd(int fd, const char *name, unsigned timeout, GError **error);
void fl_agent_free(FlAgent *agent); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlAgent, fl_agent_free)

/*
 * Freezes all filesystems. Regardless of the result, even on a timeout, the guest may be frozen
 * afterwards: fl_agent_thaw() must follow.
 */
bool fl_agent_freeze(FlAgent *agent, unsigned timeout, GError **error);
bool fl_agent_frozen(FlAgent *agent, unsigned timeout, bool *frozen, GError **error);
/* Harmless if the guest is not frozen. */
bool fl_agent_thaw(FlAgent *agent, unsigned timeout, GError **error);
