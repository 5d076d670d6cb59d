/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qemu/agent.h"

#include "util/deadline.h"
#include "util/interrupt.h"

#include "qemu/json.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Replies to the commands used here have a few dozen bytes. */
#define LINE_MAX_BYTES 65536
/* Precedes the reply to guest-sync-delimited; sent to the agent, discards a partial command. */
#define DELIMITER 0xFF

struct FlAgent {
    int fd;
    char *name;
    GByteArray *in;
    bool out_of_step; /* a late reply to an abandoned command may still arrive */
    gint64 last_sync; /* unlikely to have been sent by an earlier client */
};

#define SILENT                                                                                     \
    "no answer; check that qemu-guest-agent runs in the guest, and that no other client uses "     \
    "this "                                                                                        \
    "socket?"

static bool agent_fail(const FlAgent *agent, GError **error, const char *what)
{
    return fl_fail(error, "guest agent %s: %s", agent->name, what);
}

/* Waits for EVENTS until DEADLINE, in microseconds of the monotonic clock. */
static bool wait_for(const FlAgent *agent, short events, gint64 deadline, GError **error)
{
    for (;;) {
        struct pollfd p = {.fd = agent->fd, .events = events};
        int left = fl_deadline_poll(deadline), n;

        if (!fl_interrupt_check(error))
            return false;
        if (left == 0)
            return agent_fail(agent, error, SILENT);
        n = poll(&p, 1, MIN(left, FL_INTERRUPT_MS));
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR)
            return agent_fail(agent, error, g_strerror(errno));
    }
}

static bool send_all(const FlAgent *agent, const void *buf, size_t length, gint64 deadline,
                     GError **error)
{
    const char *p = buf;

    while (length > 0) {
        ssize_t n = send(agent->fd, p, length, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n >= 0) {
            p += n;
            length -= (size_t)n;
        } else if (errno == EAGAIN) {
            if (!wait_for(agent, POLLOUT, deadline, error))
                return false;
        } else if (errno != EINTR) {
            return agent_fail(agent, error, g_strerror(errno));
        }
    }
    return true;
}

/* Returns the next line, without its end. Fails at DEADLINE even if data keeps arriving, so that an
 * endless line cannot block. */
static char *receive_line(FlAgent *agent, gint64 deadline, GError **error)
{
    for (;;) {
        guint8 *end = agent->in->len == 0 ? NULL : memchr(agent->in->data, '\n', agent->in->len);
        char buf[4096];
        ssize_t n;

        if (!fl_interrupt_check(error))
            return NULL;
        if (fl_deadline_left(deadline) == 0) {
            agent_fail(agent, error, SILENT);
            return NULL;
        }
        if (end != NULL) {
            guint length = (guint)(end - agent->in->data);
            char *line = g_strndup((char *)agent->in->data, length);
            g_byte_array_remove_range(agent->in, 0, length + 1);
            return line;
        }
        if (agent->in->len > LINE_MAX_BYTES) {
            agent_fail(agent, error, "it sent a line without end");
            return NULL;
        }

        n = recv(agent->fd, buf, sizeof buf, MSG_DONTWAIT);
        if (n > 0) {
            g_byte_array_append(agent->in, (guint8 *)buf, (guint)n);
        } else if (n == 0) {
            agent_fail(agent, error, "the connection was closed");
            return NULL;
        } else if (errno == EAGAIN) {
            if (!wait_for(agent, POLLIN, deadline, error))
                return NULL;
        } else if (errno != EINTR) {
            agent_fail(agent, error, g_strerror(errno));
            return NULL;
        }
    }
}

static bool synchronise(FlAgent *agent, gint64 deadline, GError **error)
{
    g_autofree char *command = NULL;

    agent->last_sync++;
    command = g_strdup_printf(
        "%c{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%" G_GINT64_FORMAT "}}\n",
        DELIMITER, agent->last_sync);
    if (!send_all(agent, command, strlen(command), deadline, error))
        return false;

    for (;;) {
        g_autofree char *line = receive_line(agent, deadline, error);
        g_autoptr(JsonObject) answer = NULL;
        const char *start;

        if (line == NULL)
            return false;
        start = strrchr(line, (char)DELIMITER);
        answer = start != NULL ? fl_json_parse(start + 1, strlen(start + 1), NULL) : NULL;
        if (answer != NULL && fl_json_int(answer, "return") == agent->last_sync) {
            agent->out_of_step = false;
            return true;
        }
    }
}

/* Runs COMMAND. ANSWER gets the whole reply, which has a member "return". */
static bool call(FlAgent *agent, const char *command, unsigned timeout, JsonObject **answer,
                 GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout * 1000;
    g_autofree char *text = g_strdup_printf("{\"execute\":\"%s\"}\n", command);
    g_autofree char *line = NULL;
    g_autoptr(JsonObject) reply = NULL;
    g_autoptr(GError) failure = NULL;
    JsonObject *refusal;

    if (agent->out_of_step && !synchronise(agent, deadline, error))
        return false;
    agent->out_of_step = true;
    if (!send_all(agent, text, strlen(text), deadline, error))
        return false;
    line = receive_line(agent, deadline, error);
    if (line == NULL)
        return false;
    reply = fl_json_parse(line, strlen(line), &failure);
    if (reply == NULL)
        return fl_fail(error, "guest agent %s: it sent %s", agent->name, failure->message);
    agent->out_of_step = false;

    refusal = fl_json_object(reply, "error");
    if (refusal != NULL) {
        const char *desc = fl_json_string(refusal, "desc");
        return fl_fail(error, "guest agent %s: %s: %s", agent->name, command,
                       desc != NULL ? desc : "failed");
    }
    if (answer != NULL)
        *answer = g_steal_pointer(&reply);
    return true;
}

FlAgent *fl_agent_new_fd(int fd, const char *name, unsigned timeout, GError **error)
{
    g_autoptr(FlAgent) agent = g_new0(FlAgent, 1);

    agent->fd = fd;
    agent->name = g_strdup(name);
    agent->in = g_byte_array_new();
    agent->last_sync = g_random_int_range(1 << 16, G_MAXINT32 / 2);
    if (!synchronise(agent, g_get_monotonic_time() + (gint64)timeout * 1000, error))
        return NULL;
    return g_steal_pointer(&agent);
}

FlAgent *fl_agent_connect(const char *path, unsigned timeout, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int node = open(path, O_PATH | O_CLOEXEC);
    int fd;

    if (node < 0) {
        fl_fail(error, "guest agent %s: %s", path, g_strerror(errno));
        return NULL;
    }
    /* By descriptor, because the path may be longer than sun_path. A non-blocking socket does not
     * wait for a full backlog: EAGAIN. */
    g_snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", node);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        fl_fail(error, "guest agent %s: cannot connect: %s", path, g_strerror(errno));
        close(node);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    close(node);
    return fl_agent_new_fd(fd, path, timeout, error);
}

void fl_agent_free(FlAgent *agent)
{
    if (agent == NULL)
        return;
    close(agent->fd);
    g_byte_array_unref(agent->in);
    g_free(agent->name);
    g_free(agent);
}

bool fl_agent_freeze(FlAgent *agent, unsigned timeout, GError **error)
{
    return call(agent, "guest-fsfreeze-freeze", timeout, NULL, error);
}

bool fl_agent_frozen(FlAgent *agent, unsigned timeout, bool *frozen, GError **error)
{
    g_autoptr(JsonObject) answer = NULL;

    if (!call(agent, "guest-fsfreeze-status", timeout, &answer, error))
        return false;
    *frozen = g_strcmp0(fl_json_string(answer, "return"), "frozen") == 0;
    return true;
}

bool fl_agent_thaw(FlAgent *agent, unsigned timeout, GError **error)
{
    return call(agent, "guest-fsfreeze-thaw", timeout, NULL, error);
}
