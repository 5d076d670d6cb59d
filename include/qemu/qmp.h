/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A QMP client (QEMU docs/interop/qmp-spec.txt), for the storage daemon that we start and for the
 * VMs whose monitor we are given.
 *
 * Calls are synchronous: one thread at a time uses a client, and a call returns when its reply is
 * there, the time is up, or the peer has gone. Events that arrive meanwhile go to the handler.
 * A call that timed out leaves the client usable: its late reply is known by its id and dropped.
 * What the peer may send is bounded as qemu/channel.h says.
 */
#pragma once

#include "util/error.h"

#include <json-glib/json-glib.h>

typedef struct FlQmp FlQmp;

/*
 * DATA is never NULL and valid during the call only. Called by fl_qmp_call() and fl_qmp_dispatch(),
 * neither of which it may call itself.
 */
typedef void (*FlQmpEvent)(const char *event, JsonObject *data, void *opaque);

/*
 * Connects to the monitor at PATH, or takes the connected socket FD (owned from then on, also on
 * failure), reads the greeting and negotiates capabilities. NAME is what errors call the peer.
 * TIMEOUT_MS bounds this and each later call.
 */
FlQmp *fl_qmp_connect(const char *path, unsigned timeout_ms, GError **error);
FlQmp *fl_qmp_new_fd(int fd, const char *name, unsigned timeout_ms, GError **error);
void fl_qmp_free(FlQmp *qmp); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlQmp, fl_qmp_free)

/* Bounds each later call. */
void fl_qmp_set_timeout(FlQmp *qmp, unsigned timeout_ms);

/* Without a handler events are dropped. */
void fl_qmp_set_event_handler(FlQmp *qmp, FlQmpEvent handler, void *opaque);

/*
 * QMP's error reply: the class is the code, the peer's text alone is the message, for the caller to
 * say what it was about (g_prefix_error). Faults of the connection are FL_ERROR, whole sentences.
 */
#define FL_QMP_ERROR fl_qmp_error_quark()
GQuark fl_qmp_error_quark(void);
typedef enum {
    FL_QMP_ERROR_GENERIC,
    FL_QMP_ERROR_COMMAND_NOT_FOUND,
    FL_QMP_ERROR_DEVICE_NOT_FOUND,
    FL_QMP_ERROR_OTHER,
} FlQmpErrorCode;

/*
 * Runs COMMAND with ARGS (an object; taken over; NULL for none). REPLY (may be NULL) gets what is
 * under "return", to be freed by json_node_unref. FD, unless -1, is passed along (SCM_RIGHTS) and
 * stays the caller's.
 */
bool fl_qmp_call(FlQmp *qmp, const char *command, JsonNode *args, JsonNode **reply, GError **error);
bool fl_qmp_call_fd(FlQmp *qmp, const char *command, JsonNode *args, int fd, JsonNode **reply,
                    GError **error);

/* The socket, to poll for events. No event is left unhandled between calls unless it polls. */
int fl_qmp_fd(const FlQmp *qmp);
/* Handles events that are there, waiting up to TIMEOUT_MS for the first (0: not at all). False if
 * the peer has gone. */
bool fl_qmp_dispatch(FlQmp *qmp, unsigned timeout_ms, GError **error);

/* Whether all that was received was handled: half an event is not. What has not been received yet
 * is told by a poll of the socket. */
bool fl_qmp_is_settled(const FlQmp *qmp);

/* One argument of a command; its value is the caller's, unless it is a node. */
typedef struct {
    const char *name;
    enum { FL_QMP_STRING, FL_QMP_INT, FL_QMP_BOOL, FL_QMP_NODE } type;
    union {
        const char *string;
        gint64 number;
        bool truth;
        JsonNode *node;
    };
} FlQmpArg;

/* NULL: the argument is left out. */
static inline FlQmpArg fl_qmp_string(const char *name, const char *value)
{
    return (FlQmpArg){.name = name, .type = FL_QMP_STRING, .string = value};
}

static inline FlQmpArg fl_qmp_int(const char *name, gint64 value)
{
    return (FlQmpArg){.name = name, .type = FL_QMP_INT, .number = value};
}

static inline FlQmpArg fl_qmp_bool(const char *name, bool value)
{
    return (FlQmpArg){.name = name, .type = FL_QMP_BOOL, .truth = value};
}

/* VALUE is taken over; NULL: the argument is left out. */
static inline FlQmpArg fl_qmp_node(const char *name, JsonNode *value)
{
    return (FlQmpArg){.name = name, .type = FL_QMP_NODE, .node = value};
}

/*
 * The object of a command's arguments:
 *
 *     fl_qmp_args(fl_qmp_string("node", node), fl_qmp_bool("persistent", true))
 */
#define fl_qmp_args(...) fl_qmp_object((const FlQmpArg[]){__VA_ARGS__, {0}})
/* The same of an array whose last element has no name. */
JsonNode *fl_qmp_object(const FlQmpArg *args);
