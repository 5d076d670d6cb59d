/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON objects over a Unix stream socket, as used by QEMU's monitors.
 *
 * The peer is not trusted: a message has at most FL_CHANNEL_MAX_BYTES and FL_JSON_MAX_DEPTH levels,
 * and must be valid UTF-8 and JSON. The end of a message is found by matching braces, so
 * pretty-printing monitors work too. After a failure the stream is out of sync, and every further
 * call fails with the same message.
 *
 * One thread at a time. Deadlines are in microseconds of g_get_monotonic_time(). Errors are
 * FL_ERROR and begin with the channel's name.
 */
#pragma once

#include "qemu/json.h"

#define FL_CHANNEL_MAX_BYTES (64u << 20)

typedef struct FlChannel FlChannel;

/* Connects to the socket at PATH, which may be longer than sun_path. NAME is for errors. */
FlChannel *fl_channel_connect(const char *path, const char *name, GError **error);
/* Takes ownership of the connected socket FD, also on failure. */
FlChannel *fl_channel_new_fd(int fd, const char *name, GError **error);
void fl_channel_free(FlChannel *channel); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlChannel, fl_channel_free)

const char *fl_channel_name(const FlChannel *channel);
/* The socket, to poll. Call fl_channel_next() first: messages may have been received already. */
int fl_channel_fd(const FlChannel *channel);

/* Sends MESSAGE and a newline. FD, unless -1, is passed along (SCM_RIGHTS) and stays open. */
bool fl_channel_send(FlChannel *channel, JsonObject *message, int fd, gint64 deadline,
                     GError **error);
/* Returns the next received message in MESSAGE, or NULL if there is none. Never waits. */
bool fl_channel_next(FlChannel *channel, JsonObject **message, GError **error);
/* Waits until DEADLINE for bytes and receives some; READY tells whether any arrived. A signal
 * (util/interrupt.h) is an error that leaves the channel usable. */
bool fl_channel_fill(FlChannel *channel, gint64 deadline, bool *ready, GError **error);
/* Whether no partial message is buffered. Valid after fl_channel_next() returned NULL. */
bool fl_channel_is_between(const FlChannel *channel);
/* Fails the channel because the caller cannot interpret what was received; FORMAT says why. Returns
 * false. */
bool fl_channel_break(FlChannel *channel, GError **error, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
