/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Queue of the reads of a disk that wait for a connection, and their distribution to connections.
 * Call from the loop only.
 *
 * Connections are filled one after the other: spreading reads over all costs more iterations of the
 * loop and the server. Read-ahead comes after demand reads, and leaves the first connection alone
 * if there are several, so that demand reads have a connection of their own.
 */
#pragma once

#include "source/conn.h"
#include "util/throttle.h"

typedef struct {
    GQueue demand, ahead; /* of FlRead, linked through their link field */
    FlThrottle *throttle; /* for reads sent to connections; NULL: none */
} FlReadQueue;

void fl_read_queue_push(FlReadQueue *queue, FlRead *read);
/* Requeues READ before all others of its kind, since it has waited already. */
void fl_read_queue_put_back(FlReadQueue *queue, FlRead *read);
unsigned fl_read_queue_length(const FlReadQueue *queue);
/* Moves all reads to LEFT, keeping their order. */
void fl_read_queue_give_up(FlReadQueue *queue, GQueue *left);
/* Sends reads to CONNS (of FlConn), as far as these accept more and the throttle permits at NOW
 * (g_get_monotonic_time()). Returns the microseconds until the throttle permits more, or 0. A
 * connection that answers at once may call back into this module. */
gint64 fl_read_queue_pump(FlReadQueue *queue, const GPtrArray *conns, gint64 now);
