/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One connection of a disk, polled by the loop. Private to source/. */
#pragma once

#include "source/nbd/endpoint.h"
#include "source/read.h"

typedef struct FlConn FlConn;

typedef struct {
    /* A read was answered: read->error is 0 or what the server said. May call fl_conn_read(), but
     * not fl_conn_free(). */
    void (*answered)(FlConn *conn, FlRead *read, void *opaque);
    /* The connection is of no use any more; LEFT holds reads that it did not answer (by their
     * links), to be asked again elsewhere. The owner frees it, which hands over the others. */
    void (*lost)(FlConn *conn, GQueue *left, const char *why, void *opaque);
} FlConnOps;

/* Takes over NBD, a handle in transmission phase. */
FlConn *fl_conn_new(struct nbd_handle *nbd, const FlConnOps *ops, void *opaque);
/* Closes the connection. Reads that were not answered move to LEFT; their buffers are not written
 * any more. */
void fl_conn_free(FlConn *conn, GQueue *left);

void fl_conn_read(FlConn *conn, FlRead *read);
/* Reads and bytes under way. */
unsigned fl_conn_in_flight(const FlConn *conn);
uint64_t fl_conn_bytes(const FlConn *conn);
/* When the read that has been under way longest was first asked for; only while some are. */
gint64 fl_conn_oldest(const FlConn *conn);
/* When something last came from the server, or the first of the reads under way was asked
 * (g_get_monotonic_time()). */
gint64 fl_conn_last_sign(const FlConn *conn);
