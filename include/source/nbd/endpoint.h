/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where an NBD server is, and how to open a connection to it.
 *
 * Everything here blocks, within the bounds of a FlWait, and is called by the thread that sets up
 * or by a worker, never by the loop. An endpoint is immutable and counted; any thread may use it.
 * What the server sends is bounded: at most FL_EXPORTS_MAX exports and FL_CONTEXTS_MAX contexts.
 */
#pragma once

#include "util/budget.h"
#include "util/error.h"
#include "util/sandbox.h"

#include <gio/gio.h>
#include <libnbd.h>
#include <stdint.h>

#define FL_EXPORTS_MAX  20000u
#define FL_CONTEXTS_MAX 1000u
/* Bytes that all of what the servers of a mount say of their exports may take: names, descriptions,
 * contexts (with what the tree makes of each), and maps. The most of that is left to the maps. */
#define FL_REMEMBER_MAX       (UINT64_C(1) << 30)
#define FL_REMEMBER_NAMES_MAX (UINT64_C(64) << 20)

/* How long a blocking call may take, and what ends it early. */
typedef struct {
    unsigned seconds;     /* for each reply: not each byte, or a server could drip for ever */
    gint64 deadline;      /* for all of it (g_get_monotonic_time()); 0: none */
    GCancellable *cancel; /* may be NULL */
} FlWait;

/* What a server says of an export before any of its bytes are read. */
typedef struct {
    char *name;        /* as the server has it; "" is the default export */
    char *description; /* NULL if none */
    uint64_t size;     /* bytes */
    uint32_t block_min, block_preferred, block_max;
    bool multi_conn;     /* several connections see one state, and may be opened */
    GPtrArray *contexts; /* of char *: meta contexts, in the server's order */
} FlExportInfo;

FlExportInfo *fl_export_info_new(void);
void fl_export_info_free(FlExportInfo *info); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlExportInfo, fl_export_info_free)
bool fl_export_info_has_context(const FlExportInfo *info, const char *context);

typedef struct FlEndpoint FlEndpoint;

/* A server by its NBD URI (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md). What
 * it makes us remember is taken of BUDGET; NULL: of one of FL_REMEMBER_MAX bytes. */
FlEndpoint *fl_endpoint_new_uri(const char *uri, FlBudget *budget);
/* A server by a descriptor (O_PATH) of its Unix socket, duplicated here. LABEL is its name in
 * messages. */
FlEndpoint *fl_endpoint_new_socket(int fd, const char *label, FlBudget *budget);
FlEndpoint *fl_endpoint_ref(FlEndpoint *endpoint);
void fl_endpoint_unref(FlEndpoint *endpoint); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlEndpoint, fl_endpoint_unref)

/* What messages and info.json call it: the URI without user, password and credential parameters. */
const char *fl_endpoint_label(const FlEndpoint *endpoint);

/* Allows what connecting takes beside sockets: names that are looked up, keys, certificates. */
void fl_endpoint_allow(const FlEndpoint *endpoint, FlSandbox *sandbox);

/*
 * Errors of what follows are FL_ERROR_LOST where another try may find the server well.
 *
 * The exports of the server (FlExportInfo): the one that the URI names, or every one that the
 * server lists, or the default one where it cannot list. An export name that the server does not
 * have is an error that names those that it has.
 */
GPtrArray *fl_endpoint_exports(FlEndpoint *endpoint, const FlWait *wait, GError **error);
/* The same for the one export NAME; the array has one element. */
GPtrArray *fl_endpoint_export(FlEndpoint *endpoint, const char *name, const FlWait *wait,
                              GError **error);

/* What all that is remembered for good of what the server says is taken of. */
FlBudget *fl_endpoint_budget(const FlEndpoint *endpoint);

/*
 * A connection in transmission phase to EXPORT with CONTEXTS (NULL-terminated, may be NULL)
 * negotiated as far as the server has them. Free it with fl_nbd_close().
 */
struct nbd_handle *fl_endpoint_open(FlEndpoint *endpoint, const char *export,
                                    const char *const *contexts, const FlWait *wait,
                                    GError **error);

/* Lets a connection work until DONE(OPAQUE), it dies, or WAIT ends: the bounded wait that all the
 * rest is made of. */
bool fl_nbd_wait(struct nbd_handle *nbd, bool (*done)(struct nbd_handle *nbd, void *opaque),
                 void *opaque, const FlWait *wait, GError **error);
/*
 * NBD is not needed now: it is kept for the next fl_endpoint_open() that it suits, if EXPORT is the
 * only one of the server, and closed if not. A server may serve one client only and end with it, as
 * qemu-nbd does without -t: whoever looks at it must not leave before the first read.
 */
void fl_endpoint_keep(FlEndpoint *endpoint, const char *export, struct nbd_handle *nbd);

/* Says good-bye, as far as that goes without waiting, and closes the connection. NULL is fine. */
void fl_nbd_close(struct nbd_handle *nbd);
