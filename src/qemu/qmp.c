/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qemu/qmp.h"

#include "qemu/channel.h"
#include "qemu/json.h"

#include <stdarg.h>
#include <string.h>

GQuark fl_qmp_error_quark(void)
{
    return g_quark_from_static_string("fl-qmp-error-quark");
}

struct FlQmp {
    FlChannel *channel;
    unsigned timeout_ms;
    gint64 last_id; /* of the last command sent; the peer repeats it in the reply */
    FlQmpEvent handler;
    void *opaque;
};

static gint64 deadline_in(unsigned ms)
{
    return g_get_monotonic_time() + (gint64)ms * 1000;
}

static bool is_greeting(JsonObject *message)
{
    return fl_json_object(message, "QMP") != NULL;
}

/* QMP rejects other commands before qmp_capabilities. */
static bool greet(FlQmp *qmp, GError **error)
{
    gint64 deadline = deadline_in(qmp->timeout_ms);
    g_autoptr(JsonObject) greeting = NULL;

    while (greeting == NULL) {
        bool ready;
        if (!fl_channel_fill(qmp->channel, deadline, &ready, error) ||
            !fl_channel_next(qmp->channel, &greeting, error))
            return false;
        if (greeting == NULL && g_get_monotonic_time() >= deadline)
            return fl_channel_break(qmp->channel, error,
                                    "no QMP greeting in %g s: another client is connected to this "
                                    "monitor, which serves one at a time, or it is not a QMP "
                                    "monitor (give QEMU a separate -qmp for fleecefs)",
                                    qmp->timeout_ms / 1000.0);
    }
    if (!is_greeting(greeting))
        return fl_channel_break(qmp->channel, error, "it is not a QMP monitor");
    return fl_qmp_call(qmp, "qmp_capabilities", NULL, NULL, error);
}

static FlQmp *new_client(FlChannel *channel, unsigned timeout_ms, GError **error)
{
    g_autoptr(FlQmp) qmp = NULL;

    if (channel == NULL)
        return NULL;
    qmp = g_new0(FlQmp, 1);
    qmp->channel = channel;
    qmp->timeout_ms = timeout_ms;
    return greet(qmp, error) ? g_steal_pointer(&qmp) : NULL;
}

FlQmp *fl_qmp_connect(const char *path, unsigned timeout_ms, GError **error)
{
    g_autofree char *name = g_strconcat("qmp:", path, NULL);

    return new_client(fl_channel_connect(path, name, error), timeout_ms, error);
}

FlQmp *fl_qmp_new_fd(int fd, const char *name, unsigned timeout_ms, GError **error)
{
    return new_client(fl_channel_new_fd(fd, name, error), timeout_ms, error);
}

void fl_qmp_free(FlQmp *qmp)
{
    if (qmp == NULL)
        return;
    fl_channel_free(qmp->channel);
    g_free(qmp);
}

void fl_qmp_set_timeout(FlQmp *qmp, unsigned timeout_ms)
{
    qmp->timeout_ms = timeout_ms;
}

void fl_qmp_set_event_handler(FlQmp *qmp, FlQmpEvent handler, void *opaque)
{
    qmp->handler = handler;
    qmp->opaque = opaque;
}

int fl_qmp_fd(const FlQmp *qmp)
{
    return fl_channel_fd(qmp->channel);
}

/* Whether MESSAGE was an event. */
static bool handle_event(FlQmp *qmp, JsonObject *message)
{
    const char *event = fl_json_string(message, "event");
    JsonObject *data = fl_json_object(message, "data");
    g_autoptr(JsonObject) none = NULL;

    if (event == NULL)
        return false;
    if (data == NULL)
        data = none = json_object_new();
    if (qmp->handler != NULL)
        qmp->handler(event, data, qmp->opaque);
    return true;
}

/* Whether REPLY is to the last command, not to one that timed out or of an earlier client. */
static bool is_awaited(const FlQmp *qmp, JsonObject *reply)
{
    /* Errors detected before the command's id is parsed have no id. */
    return !json_object_has_member(reply, "id") || fl_json_int(reply, "id") == qmp->last_id;
}

static bool is_reply(JsonObject *message)
{
    return json_object_has_member(message, "return") || fl_json_object(message, "error") != NULL;
}

/*
 * Handles all messages that have arrived. REPLY, unless NULL, gets the reply to the last command if
 * it has arrived; messages after it are handled, too, because poll() does not report buffered data.
 * QEMU may send a second greeting, for a client that left while it waited for the monitor.
 */
static bool handle_arrived(FlQmp *qmp, JsonObject **reply, bool *any_event, GError **error)
{
    for (;;) {
        g_autoptr(JsonObject) message = NULL;

        if (!fl_channel_next(qmp->channel, &message, error))
            return false;
        if (message == NULL)
            return true;
        if (handle_event(qmp, message))
            *any_event = true;
        else if (is_reply(message) && is_awaited(qmp, message) && reply != NULL && *reply == NULL)
            *reply = g_steal_pointer(&message);
        else if (!is_reply(message) && !is_greeting(message))
            return fl_channel_break(qmp->channel, error, "it sent a message that is not QMP");
    }
}

static bool receive_reply(FlQmp *qmp, const char *command, gint64 deadline, JsonObject **reply,
                          GError **error)
{
    for (;;) {
        g_autoptr(GError) failure = NULL;
        bool any_event = false, ready;

        /* A reply is valid whatever follows it; the channel remembers an error. */
        handle_arrived(qmp, reply, &any_event, &failure);
        if (*reply != NULL)
            return true;
        if (failure != NULL) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return false;
        }
        if (g_get_monotonic_time() >= deadline)
            return fl_fail(error, "%s: no answer to %s in %g s", fl_channel_name(qmp->channel),
                           command, qmp->timeout_ms / 1000.0);
        if (!fl_channel_fill(qmp->channel, deadline, &ready, error))
            return false;
    }
}

static void set_qmp_error(JsonObject *reply, GError **error)
{
    static const struct {
        const char *name;
        FlQmpErrorCode code;
    } classes[] = {
        {"GenericError", FL_QMP_ERROR_GENERIC},
        {"CommandNotFound", FL_QMP_ERROR_COMMAND_NOT_FOUND},
        {"DeviceNotFound", FL_QMP_ERROR_DEVICE_NOT_FOUND},
    };
    JsonObject *details = fl_json_object(reply, "error");
    const char *class = fl_json_string(details, "class");
    const char *desc = fl_json_string(details, "desc");
    g_autofree char *text = g_strndup(desc != NULL ? desc : "unknown error", 2000);
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    FlQmpErrorCode code = FL_QMP_ERROR_OTHER;

    for (size_t i = 0; i < G_N_ELEMENTS(classes); i++) {
        if (g_strcmp0(class, classes[i].name) == 0)
            code = classes[i].code;
    }
    g_set_error_literal(error, FL_QMP_ERROR, (int)code, g_strdelimit(valid, "\r\n", ' '));
}

bool fl_qmp_call_fd(FlQmp *qmp, const char *command, JsonNode *args, int fd, JsonNode **reply,
                    GError **error)
{
    gint64 deadline = deadline_in(qmp->timeout_ms);
    g_autoptr(JsonObject) message = json_object_new();
    g_autoptr(JsonObject) answer = NULL;

    json_object_set_string_member(message, "execute", command);
    if (args != NULL)
        json_object_set_member(message, "arguments", args);
    json_object_set_int_member(message, "id", ++qmp->last_id);

    if (!fl_channel_send(qmp->channel, message, fd, deadline, error) ||
        !receive_reply(qmp, command, deadline, &answer, error))
        return false;
    if (json_object_has_member(answer, "error")) {
        set_qmp_error(answer, error);
        return false;
    }
    if (reply != NULL)
        *reply = json_object_dup_member(answer, "return");
    return true;
}

bool fl_qmp_call(FlQmp *qmp, const char *command, JsonNode *args, JsonNode **reply, GError **error)
{
    return fl_qmp_call_fd(qmp, command, args, -1, reply, error);
}

bool fl_qmp_dispatch(FlQmp *qmp, unsigned timeout_ms, GError **error)
{
    gint64 deadline = deadline_in(timeout_ms);
    bool any_event = false;

    do {
        bool ready;
        if (!fl_channel_fill(qmp->channel, deadline, &ready, error) ||
            !handle_arrived(qmp, NULL, &any_event, error))
            return false;
    } while (!any_event && g_get_monotonic_time() < deadline);
    return true;
}

bool fl_qmp_is_settled(const FlQmp *qmp)
{
    return fl_channel_is_between(qmp->channel);
}

/* NULL: ARG is omitted. */
static JsonNode *value_of(const FlQmpArg *arg)
{
    switch (arg->type) {
    case FL_QMP_STRING:
        return arg->string != NULL ? json_node_init_string(json_node_alloc(), arg->string) : NULL;
    case FL_QMP_INT:
        return json_node_init_int(json_node_alloc(), arg->number);
    case FL_QMP_BOOL:
        return json_node_init_boolean(json_node_alloc(), arg->truth);
    case FL_QMP_NODE:
        return arg->node;
    }
    g_assert_not_reached();
}

JsonNode *fl_qmp_object(const FlQmpArg *args)
{
    JsonObject *object = json_object_new();
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);

    for (; args->name != NULL; args++) {
        JsonNode *value = value_of(args);

        if (value != NULL)
            json_object_set_member(object, args->name, value);
    }
    json_node_take_object(node, object);
    return node;
}
