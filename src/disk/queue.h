/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reads of a disk that wait for a connection, and which connection takes the next one. Belongs
 * to the loop.
 *
 * Connections are filled one after the other: spread thin, reads cost more turns of the loop and of
 * the server. Reads ahead come after those that somebody waits for, and leave the first connection
 * alone where there are several, so that a read that somebody waits for has a line of its own.
 */
#pragma once

#include "source/conn.h"

typedef struct {
    GQueue demand, ahead; /* of FlRead, by their links */
} FlReadQueue;

void fl_read_queue_push(FlReadQueue *queue, FlRead *read);
/* READ has waited already: it comes before all others of its kind. */
void fl_read_queue_put_back(FlReadQueue *queue, FlRead *read);
unsigned fl_read_queue_length(const FlReadQueue *queue);
/* All of them move to LEFT, in their order. */
void fl_read_queue_give_up(FlReadQueue *queue, GQueue *left);
/* Hands them to CONNS (of FlConn), as far as these can take more. A connection that answers at once
 * may call back into here. */
void fl_read_queue_pump(FlReadQueue *queue, const GPtrArray *conns);
