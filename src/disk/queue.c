/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "queue.h"

/* Requests on one connection: enough to hide a long way to the server, few enough to stay fair. */
#define IN_FLIGHT_MAX 32
/* When a connection has so much to do the next read goes on to the next one: bytes. */
#define FILL_AHEAD  (2u << 20)
#define FILL_DEMAND (64u << 10)

static GQueue *kind_of(FlReadQueue *queue, const FlRead *read)
{
    return read->ahead ? &queue->ahead : &queue->demand;
}

void fl_read_queue_push(FlReadQueue *queue, FlRead *read)
{
    g_queue_push_tail_link(kind_of(queue, read), &read->link);
}

void fl_read_queue_put_back(FlReadQueue *queue, FlRead *read)
{
    g_queue_push_head_link(kind_of(queue, read), &read->link);
}

unsigned fl_read_queue_length(const FlReadQueue *queue)
{
    return queue->demand.length + queue->ahead.length;
}

static void give_up(GQueue *reads, GQueue *left)
{
    for (GList *l; (l = g_queue_pop_head_link(reads)) != NULL;)
        g_queue_push_tail_link(left, l);
}

void fl_read_queue_give_up(FlReadQueue *queue, GQueue *left)
{
    give_up(&queue->demand, left);
    give_up(&queue->ahead, left);
}

static FlConn *choose(const GPtrArray *conns, bool ahead)
{
    uint64_t fill = ahead ? FILL_AHEAD : FILL_DEMAND;
    FlConn *best = NULL;

    for (guint i = ahead && conns->len > 1 ? 1 : 0; i < conns->len; i++) {
        FlConn *conn = conns->pdata[i];

        if (fl_conn_in_flight(conn) >= IN_FLIGHT_MAX)
            continue;
        if (fl_conn_bytes(conn) < fill)
            return conn;
        if (best == NULL || fl_conn_bytes(conn) < fl_conn_bytes(best))
            best = conn;
    }
    return best;
}

static void pump(GQueue *reads, const GPtrArray *conns, bool ahead)
{
    FlConn *conn;

    while (reads->length > 0 && (conn = choose(conns, ahead)) != NULL)
        fl_conn_read(conn, g_queue_pop_head_link(reads)->data);
}

void fl_read_queue_pump(FlReadQueue *queue, const GPtrArray *conns)
{
    pump(&queue->demand, conns, false);
    pump(&queue->ahead, conns, true);
}
