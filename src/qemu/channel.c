/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qemu/channel.h"

#include "util/deadline.h"
#include "util/interrupt.h"
#include "util/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <gio/gunixfdmessage.h>
#include <gio/gunixsocketaddress.h>
#include <string.h>
#include <unistd.h>

struct FlChannel {
    GSocket *socket; /* non-blocking */
    char *name;
    char *broken; /* why the channel is unusable; NULL: it works */

    GByteArray *in; /* received, not yet returned */
    guint scanned;  /* bytes of IN known to hold no complete message */
    FlJsonScan scan;
};

static FlChannel *new_channel(GSocket *socket, const char *name)
{
    FlChannel *channel = g_new0(FlChannel, 1);

    g_socket_set_blocking(socket, FALSE);
    channel->socket = socket;
    channel->name = g_strdup(name);
    channel->in = g_byte_array_new();
    return channel;
}

FlChannel *fl_channel_connect(const char *path, const char *name, GError **error)
{
    int fd = fl_unix_connect(path);

    if (fd >= 0)
        return fl_channel_new_fd(fd, name, error);
    if (errno == ECONNREFUSED)
        fl_fail(error, "%s: cannot connect: no process listens there", name);
    else if (errno == EAGAIN)
        fl_fail(error, "%s: cannot connect: too many clients are waiting for it", name);
    else
        fl_fail(error, "%s: cannot connect: %s", name, g_strerror(errno));
    return NULL;
}

FlChannel *fl_channel_new_fd(int fd, const char *name, GError **error)
{
    g_autoptr(GError) failure = NULL;
    GSocket *socket = g_socket_new_from_fd(fd, &failure);

    if (socket == NULL) {
        close(fd);
        fl_fail(error, "%s: %s", name, failure->message);
        return NULL;
    }
    return new_channel(socket, name);
}

void fl_channel_free(FlChannel *channel)
{
    if (channel == NULL)
        return;
    g_object_unref(channel->socket);
    g_byte_array_unref(channel->in);
    g_free(channel->name);
    g_free(channel->broken);
    g_free(channel);
}

const char *fl_channel_name(const FlChannel *channel)
{
    return channel->name;
}

int fl_channel_fd(const FlChannel *channel)
{
    return g_socket_get_fd(channel->socket);
}

bool fl_channel_break(FlChannel *channel, GError **error, const char *format, ...)
{
    if (channel->broken == NULL) {
        va_list args;
        va_start(args, format);
        channel->broken = g_strdup_vprintf(format, args);
        va_end(args);
    }
    return fl_fail(error, "%s: %s", channel->name, channel->broken);
}

static bool still_works(FlChannel *channel, GError **error)
{
    return channel->broken == NULL || fl_channel_break(channel, error, "%s", "");
}

/* Handles end of file or FAILURE. A peer that closes with unread data causes ECONNRESET. */
static bool lost(FlChannel *channel, const GError *failure, GError **error)
{
    if (failure == NULL || g_error_matches(failure, G_IO_ERROR, G_IO_ERROR_CONNECTION_CLOSED))
        return fl_channel_break(channel, error, "it closed the connection");
    return fl_channel_break(channel, error, "the connection is lost: %s", failure->message);
}

/* False on failure and, without an error, on timeout or (unless a message is partly sent) on a
 * signal. */
static bool wait_for(FlChannel *channel, GIOCondition condition, gint64 deadline, GError **error)
{
    gint64 left;

    do {
        g_autoptr(GError) failure = NULL;

        left = fl_deadline_left(deadline);
        if (g_socket_condition_timed_wait(channel->socket, condition,
                                          MIN(left, FL_INTERRUPT_MS * G_TIME_SPAN_MILLISECOND),
                                          NULL, &failure))
            return true;
        if (!g_error_matches(failure, G_IO_ERROR, G_IO_ERROR_TIMED_OUT)) {
            fl_channel_break(channel, error, "%s", failure->message);
            return false;
        }
    } while (left > 0 && (condition == G_IO_OUT || !fl_interrupted()));
    return false;
}

bool fl_channel_send(FlChannel *channel, JsonObject *message, int fd, gint64 deadline,
                     GError **error)
{
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), message);
    g_autofree char *json = json_to_string(node, FALSE);
    g_autofree char *line = g_strconcat(json, "\n", NULL);
    g_autoptr(GSocketControlMessage) rights = NULL;
    gsize size = strlen(line), sent = 0;

    if (!still_works(channel, error))
        return false;
    if (fd >= 0) {
        g_autoptr(GError) failure = NULL;
        rights = g_unix_fd_message_new();
        if (!g_unix_fd_message_append_fd(G_UNIX_FD_MESSAGE(rights), fd, &failure))
            return fl_fail(error, "%s: cannot pass a file: %s", channel->name, failure->message);
    }

    while (sent < size) {
        g_autoptr(GError) failure = NULL;
        GOutputVector rest = {.buffer = line + sent, .size = size - sent};
        /* The descriptor goes with the first byte; sent again, it would arrive twice. */
        gssize n = g_socket_send_message(channel->socket, NULL, &rest, 1,
                                         sent == 0 && rights != NULL ? &rights : NULL,
                                         sent == 0 && rights != NULL ? 1 : 0, 0, NULL, &failure);
        if (n >= 0) {
            sent += (gsize)n;
        } else if (!g_error_matches(failure, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK)) {
            return lost(channel, failure, error);
        } else if (!wait_for(channel, G_IO_OUT, deadline, error)) {
            /* The message may be partly sent, so the stream cannot be resynchronised. */
            if (channel->broken == NULL)
                fl_channel_break(channel, error, "it does not read its socket");
            return false;
        }
    }
    return true;
}

bool fl_channel_fill(FlChannel *channel, gint64 deadline, bool *ready, GError **error)
{
    g_autoptr(GError) failure = NULL;
    guint have = channel->in->len;
    gssize n;

    /* A peer that never stops sending must not block this either. */
    if (!still_works(channel, error) || !fl_interrupt_check(error))
        return false;
    if (!wait_for(channel, G_IO_IN, deadline, error)) {
        if (channel->broken != NULL || !fl_interrupt_check(error))
            return false;
        *ready = false;
        return true;
    }

    g_byte_array_set_size(channel->in, have + (64u << 10));
    n = g_socket_receive(channel->socket, (char *)channel->in->data + have, 64u << 10, NULL,
                         &failure);
    g_byte_array_set_size(channel->in, have + (n > 0 ? (guint)n : 0));
    if (n == 0)
        return lost(channel, NULL, error);
    if (n < 0 && !g_error_matches(failure, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK))
        return lost(channel, failure, error);
    *ready = n > 0;
    return true;
}

/* Returns the end of the first complete message; 0 if it is incomplete or (with an error) invalid.
 */
static guint scan(FlChannel *channel, GError **error)
{
    for (; channel->scanned < channel->in->len; channel->scanned++) {
        guint8 c = channel->in->data[channel->scanned];
        bool between = channel->scan.depth == 0;

        if (between && c != '{' && c != '[' && !g_ascii_isspace(c)) {
            fl_channel_break(channel, error, "it sent something that is not JSON");
            return 0;
        }
        fl_json_scan(&channel->scan, (char)c);
        if (channel->scan.depth > FL_JSON_MAX_DEPTH) {
            fl_channel_break(channel, error, "it sent JSON of more than %u levels",
                             FL_JSON_MAX_DEPTH);
            return 0;
        }
        if (!between && channel->scan.depth == 0)
            return ++channel->scanned;
    }
    if (channel->in->len > FL_CHANNEL_MAX_BYTES)
        fl_channel_break(channel, error, "it sent a message of more than %u MiB",
                         FL_CHANNEL_MAX_BYTES >> 20);
    return 0;
}

bool fl_channel_is_between(const FlChannel *channel)
{
    return channel->broken == NULL && channel->scanned == channel->in->len &&
           channel->scan.depth == 0;
}

bool fl_channel_next(FlChannel *channel, JsonObject **message, GError **error)
{
    g_autoptr(GError) failure = NULL;
    guint end;

    if (!still_works(channel, error))
        return false;
    end = scan(channel, error);
    if (channel->broken != NULL)
        return false;
    if (end == 0) {
        *message = NULL;
        return true;
    }

    *message = fl_json_parse((const char *)channel->in->data, end, &failure);
    if (*message == NULL)
        return fl_channel_break(channel, error, "it sent %s", failure->message);
    g_byte_array_remove_range(channel->in, 0, end);
    channel->scanned = 0;
    return true;
}
