/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A QMP client (QEMU docs/interop/qmp-spec.txt), for our own storage daemon and for the monitors of
 * VMs.
 *
 * Calls are synchronous: one thread at a time uses a client, and a call returns on its reply, on a
 * timeout, or when the peer disconnects. Events received meanwhile go to the handler. A call that
 * times out leaves the client usable: its late reply is recognized by its id and dropped.
 * qemu/channel.h describes the limits on what the peer may send.
 */
#pragma once

#include "util/error.h"

#include <json-glib/json-glib.h>

typedef struct FlQmp FlQmp;

/*
 * DATA is never NULL, and valid during the call only. Called by fl_qmp_call() and
 * fl_qmp_dispatch(); it must not call either.
 */
typedef void (*FlQmpEvent)(const char *event, JsonObject *data, void *opaque);

/*
 * Connects to the monitor at PATH, or takes ownership of the connected socket FD (also on failure),
 * reads the greeting and negotiates capabilities. NAME is the peer's name in errors. TIMEOUT_MS
 * bounds this and each later call.
 */
FlQmp *fl_qmp_connect(const char *path, unsigned timeout_ms, GError **error);
FlQmp *fl_qmp_new_fd(int fd, const char *name, unsigned timeout_ms, GError **error);
void fl_qmp_free(FlQmp *qmp); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlQmp, fl_qmp_free)

/* Sets the timeout of later calls. */
void fl_qmp_set_timeout(FlQmp *qmp, unsigned timeout_ms);

/* Without a handler events are dropped. */
void fl_qmp_set_event_handler(FlQmp *qmp, FlQmpEvent handler, void *opaque);

/*
 * A QMP error reply: the code is the error class, the message is the peer's text alone; the caller
 * adds context (g_prefix_error). Connection failures are FL_ERROR with complete sentences.
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
 * Runs COMMAND with ARGS (an object; takes ownership; NULL: none). REPLY (may be NULL) gets the
 * value of "return", to be freed with json_node_unref(). FD, unless -1, is passed along
 * (SCM_RIGHTS) and stays open.
 */
bool fl_qmp_call(FlQmp *qmp, const char *command, JsonNode *args, JsonNode **reply, GError **error);
bool fl_qmp_call_fd(FlQmp *qmp, const char *command, JsonNode *args, int fd, JsonNode **reply,
                    GError **error);

/* The socket, to poll for events. Between calls, an event that is not handled yet makes it
 * readable. */
int fl_qmp_fd(const FlQmp *qmp);
/* Handles pending events, waiting up to TIMEOUT_MS for the first (0: do not wait). False if the
 * peer has disconnected. */
bool fl_qmp_dispatch(FlQmp *qmp, unsigned timeout_ms, GError **error);

/* Whether everything received was handled; false if part of an event is buffered. Data not received
 * yet is visible by polling the socket. */
bool fl_qmp_is_settled(const FlQmp *qmp);

/* One argument of a command. The caller keeps the value, unless it is a node. */
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

/* If VALUE is NULL, the argument is left out. */
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

/* Takes ownership of VALUE; if NULL, the argument is left out. */
static inline FlQmpArg fl_qmp_node(const char *name, JsonNode *value)
{
    return (FlQmpArg){.name = name, .type = FL_QMP_NODE, .node = value};
}

/*
 * Builds the arguments object of a command:
 *
 *     fl_qmp_args(fl_qmp_string("node", node), fl_qmp_bool("persistent", true))
 */
#define fl_qmp_args(...) fl_qmp_object((const FlQmpArg[]){__VA_ARGS__, {0}})
/* The same for an array terminated by an element without a name. */
JsonNode *fl_qmp_object(const FlQmpArg *args);
