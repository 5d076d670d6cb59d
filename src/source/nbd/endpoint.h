/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The address of an NBD server, and how to connect to it. Private to source/nbd/.
 *
 * Functions that connect block, within the bounds of a FlWait. Any thread may use an endpoint.
 */
#pragma once

#include "source/source.h"
#include "util/budget.h"
#include "util/error.h"
#include "util/sandbox.h"

#include <libnbd.h>
#include <stdint.h>

/* Bytes of the budget that names, descriptions and contexts (with the tree nodes made from each)
 * may take: most of the budget is left to the maps. */
#define FL_REMEMBER_NAMES_MAX (UINT64_C(64) << 20)

typedef struct FlEndpoint FlEndpoint;

/* A server given by its NBD URI
 * (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md). What it makes us remember
 * is charged to BUDGET; if NULL, to a new one of FL_SOURCE_BUDGET bytes. */
FlEndpoint *fl_endpoint_new_uri(const char *uri, FlBudget *budget);
/* A server given by a descriptor (O_PATH) of its Unix socket, which is duplicated. LABEL is its
 * name in messages. */
FlEndpoint *fl_endpoint_new_socket(int fd, const char *label, FlBudget *budget);
/* A server given by the path of its Unix socket, which is looked up each time. */
FlEndpoint *fl_endpoint_new_path(const char *path, const char *label, FlBudget *budget);
void fl_endpoint_free(FlEndpoint *endpoint); /* NULL is fine */

/* Its name in messages and info.json: the URI without user, password and credential parameters. */
const char *fl_endpoint_label(const FlEndpoint *endpoint);

/* Allows what connecting needs besides sockets: name lookup, keys, certificates. */
void fl_endpoint_allow(const FlEndpoint *endpoint, FlSandbox *sandbox);

/* The budget charged for everything that is remembered permanently about the server. */
FlBudget *fl_endpoint_budget(const FlEndpoint *endpoint);

/*
 * Connects, stopping before an export is chosen; with an old server the connection is past that
 * point. Only block status needs STRUCTURED replies. Errors of this and the functions below are
 * FL_ERROR_LOST if a retry may succeed.
 */
struct nbd_handle *fl_endpoint_connect(FlEndpoint *endpoint, bool structured, const FlWait *wait,
                                       GError **error);
/* Returns a connection in transmission phase to EXPORT, with those of CONTEXTS (NULL-terminated,
 * may be NULL) that the server has. Free it with fl_nbd_close(). */
struct nbd_handle *fl_endpoint_open(FlEndpoint *endpoint, const char *export,
                                    const char *const *contexts, const FlWait *wait,
                                    GError **error);

/* Records that EXPORT is the server's only export: see fl_endpoint_keep(). */
void fl_endpoint_set_only(FlEndpoint *endpoint, const char *export);
/*
 * Takes over NBD, which the caller no longer needs. Keeps it for the next matching
 * fl_endpoint_open() if EXPORT is the server's only one, else closes it. A server may serve a
 * single client and then exit, as qemu-nbd does without -t: its first client must not disconnect
 * before the first read.
 */
void fl_endpoint_keep(FlEndpoint *endpoint, const char *export, struct nbd_handle *nbd);
