/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON objects over a Unix stream socket, as QEMU's monitors speak them.
 *
 * The peer is not trusted: a message has at most FL_CHANNEL_MAX_BYTES and FL_JSON_MAX_DEPTH
 * levels, and must be valid UTF-8 and JSON. Where a message ends follows from its braces, so a
 * pretty-printing monitor is understood too. After a failure the stream is out of step, and each
 * further call fails with the same words.
 *
 * One thread at a time. Deadlines are in the microseconds of g_get_monotonic_time(). Errors are
 * FL_ERROR and begin with the channel's name.
 */
#pragma once

#include "qemu/json.h"

#define FL_CHANNEL_MAX_BYTES (64u << 20)

typedef struct FlChannel FlChannel;

/* Connects to the socket at PATH, which may be longer than sun_path. NAME is for errors. */
FlChannel *fl_channel_connect(const char *path, const char *name, GError **error);
/* Takes the connected socket FD, also on failure. */
FlChannel *fl_channel_new_fd(int fd, const char *name, GError **error);
void fl_channel_free(FlChannel *channel); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlChannel, fl_channel_free)

const char *fl_channel_name(const FlChannel *channel);
/* The socket, to poll. Messages may be there already: fl_channel_next() comes first. */
int fl_channel_fd(const FlChannel *channel);

/* Sends MESSAGE and a newline. FD, unless -1, goes along (SCM_RIGHTS) and stays the caller's. */
bool fl_channel_send(FlChannel *channel, JsonObject *message, int fd, gint64 deadline,
                     GError **error);
/* The next message of those that have arrived, or NULL in MESSAGE. Never waits. */
bool fl_channel_next(FlChannel *channel, JsonObject **message, GError **error);
/* Waits until DEADLINE for bytes and takes some in; READY says whether any came. A signal
 * (util/interrupt.h) is an error that leaves the channel as it is. */
bool fl_channel_fill(FlChannel *channel, gint64 deadline, bool *ready, GError **error);
/* Whether nothing is kept of a message that has not arrived whole; after fl_channel_next() gave
 * NULL. */
bool fl_channel_is_between(const FlChannel *channel);
/* Fails the channel: what was received makes no sense to the caller, who says how. False. */
bool fl_channel_break(FlChannel *channel, GError **error, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
