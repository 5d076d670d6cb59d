/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "queue.h"

/* Maximum number of requests in flight per connection: enough to hide network latency, few enough
 * to stay fair. */
#define IN_FLIGHT_MAX 32
/* A connection with this many bytes in flight is full: use the next connection. */
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

/* Time that the throttle delays READ, in microseconds. */
static gint64 hold_back(FlThrottle *throttle, FlRead *read, gint64 now)
{
    gint64 wait = 0;

    if (throttle == NULL || throttle->rate == 0)
        return 0;
    wait = fl_throttle_take(throttle, read->length, now);
    /* Do not count the time in our queue as the server's. */
    if (wait == 0 && !read->sent)
        read->since = now;
    return wait;
}

static gint64 pump(FlReadQueue *queue, const GPtrArray *conns, bool ahead, gint64 now)
{
    GQueue *reads = ahead ? &queue->ahead : &queue->demand;
    FlConn *conn;

    while (reads->length > 0 && (conn = choose(conns, ahead)) != NULL) {
        FlRead *read = g_queue_peek_head(reads);
        gint64 wait = hold_back(queue->throttle, read, now);

        if (wait > 0)
            return wait;
        read->sent = true;
        g_queue_pop_head_link(reads);
        fl_conn_read(conn, read);
    }
    return 0;
}

gint64 fl_read_queue_pump(FlReadQueue *queue, const GPtrArray *conns, gint64 now)
{
    gint64 wait = pump(queue, conns, false, now);

    return wait > 0 ? wait : pump(queue, conns, true, now);
}
