/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where an NBD server is, and how to open a connection to it. Private to source/nbd/.
 *
 * What connects blocks, within the bounds of a FlWait. Any thread may use an endpoint.
 */
#pragma once

#include "source/source.h"
#include "util/budget.h"
#include "util/error.h"
#include "util/sandbox.h"

#include <libnbd.h>
#include <stdint.h>

/* Bytes that names, descriptions and contexts (with what the tree makes of each) may take of the
 * budget: the most of that is left to the maps. */
#define FL_REMEMBER_NAMES_MAX (UINT64_C(64) << 20)

typedef struct FlEndpoint FlEndpoint;

/* A server by its NBD URI (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md). What
 * it makes us remember is taken of BUDGET; NULL: of one of FL_SOURCE_BUDGET bytes. */
FlEndpoint *fl_endpoint_new_uri(const char *uri, FlBudget *budget);
/* A server by a descriptor (O_PATH) of its Unix socket, duplicated here. LABEL is its name in
 * messages. */
FlEndpoint *fl_endpoint_new_socket(int fd, const char *label, FlBudget *budget);
void fl_endpoint_free(FlEndpoint *endpoint); /* NULL is fine */

/* What messages and info.json call it: the URI without user, password and credential parameters. */
const char *fl_endpoint_label(const FlEndpoint *endpoint);

/* Allows what connecting takes beside sockets: names that are looked up, keys, certificates. */
void fl_endpoint_allow(const FlEndpoint *endpoint, FlSandbox *sandbox);

/* What all that is remembered for good of what the server says is taken of. */
FlBudget *fl_endpoint_budget(const FlEndpoint *endpoint);

/*
 * Connects up to the point where an export is chosen; an old server is past it already. Only block
 * status needs STRUCTURED replies. Errors of this and what follows are FL_ERROR_LOST where another
 * try may find the server well.
 */
struct nbd_handle *fl_endpoint_connect(FlEndpoint *endpoint, bool structured, const FlWait *wait,
                                       GError **error);
/*
 * A connection in transmission phase to EXPORT with CONTEXTS (NULL-terminated, may be NULL)
 * negotiated as far as the server has them. Free it with fl_nbd_close().
 */
struct nbd_handle *fl_endpoint_open(FlEndpoint *endpoint, const char *export,
                                    const char *const *contexts, const FlWait *wait,
                                    GError **error);

/* The server has this export and no other: see fl_endpoint_keep(). */
void fl_endpoint_set_only(FlEndpoint *endpoint, const char *export);
/*
 * NBD is not needed now: it is kept for the next fl_endpoint_open() that it suits, if EXPORT is the
 * only one of the server, and closed if not. A server may serve one client only and end with it, as
 * qemu-nbd does without -t: whoever looks at it must not leave before the first read.
 */
void fl_endpoint_keep(FlEndpoint *endpoint, const char *export, struct nbd_handle *nbd);
