/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/conn.h"

#include <errno.h>

/* A read fails after this many protocol violations, each on a new connection. */
#define FAULTS_MAX 2

FlConn *fl_conn_alloc(size_t bytes, const FlConnOps *ops)
{
    FlConn *conn = g_malloc0(bytes);

    conn->ops = ops;
    return conn;
}

bool fl_conn_verify(FlConn *conn, const FlDiskMaps *maps, const FlWait *wait, GError **error)
{
    return conn->ops->verify(conn, maps, wait, error);
}

bool fl_conn_peek(FlConn *conn, const FlSpan *spans, unsigned n, void **bytes, const FlWait *wait,
                  GError **error)
{
    return conn->ops->peek(conn, spans, n, bytes, wait, error);
}

bool fl_conn_has(FlConn *conn, const char *context)
{
    return conn->ops->has(conn, context);
}

bool fl_conn_status(FlConn *conn, const char *context, const FlSpan *spans, unsigned n,
                    FlMap **maps, const FlWait *wait, GError **error)
{
    return conn->ops->status(conn, context, spans, n, maps, wait, error);
}

void fl_conn_start(FlConn *conn, const FlConnEvents *events, void *opaque)
{
    conn->events = events;
    conn->opaque = opaque;
    fl_conn_note_sign(conn);
    conn->ops->start(conn);
}

static void move_all(GQueue *from, GQueue *to)
{
    for (GList *l; (l = g_queue_pop_head_link(from)) != NULL;)
        g_queue_push_tail_link(to, l);
}

void fl_conn_close(FlConn *conn, GQueue *left)
{
    if (conn == NULL)
        return;
    for (GList *l = conn->under_way.head; l != NULL; l = l->next)
        conn->ops->settle(conn, l->data);
    for (GList *l = conn->answered.head; l != NULL; l = l->next)
        conn->ops->settle(conn, l->data);
    /* Close first: no buffer may be written after its owner is notified. */
    conn->ops->close(conn);
    if (left != NULL) {
        move_all(&conn->answered, left);
        move_all(&conn->under_way, left);
    }
    g_free(conn);
}

void fl_conn_read(FlConn *conn, FlRead *read)
{
    if (conn->under_way.length == 0)
        fl_conn_note_sign(conn);
    read->conn = conn;
    read->error = 0;
    g_queue_push_tail_link(&conn->under_way, &read->link);
    conn->bytes += read->length;
    conn->ops->read(conn, read);
    /* The read may have completed at once. */
    if (conn->answered.length > 0 && !conn->telling)
        conn->ops->wake(conn);
}

void fl_conn_note_sign(FlConn *conn)
{
    conn->last_sign = g_get_monotonic_time();
}

void fl_conn_answer(FlConn *conn, FlRead *read, int error)
{
    read->error = error;
    g_queue_unlink(&conn->under_way, &read->link);
    g_queue_push_tail_link(&conn->answered, &read->link);
    conn->bytes -= read->length;
    if (error == FL_READ_WRONG && ++read->faults >= FAULTS_MAX)
        read->error = EPROTO;
}

void fl_conn_tell(FlConn *conn)
{
    GQueue left = G_QUEUE_INIT;
    const char *fault;

    conn->telling = true;
    /* The owner issues new reads from answered(), and may find the connection dead. */
    for (GList *l; (l = g_queue_pop_head_link(&conn->answered)) != NULL;) {
        FlRead *read = l->data;

        if (conn->ops->settle(conn, read))
            conn->events->answered(conn, read, conn->opaque);
        else
            g_queue_push_tail_link(&left, l);
    }
    conn->telling = false;
    fault = conn->ops->fault(conn);
    if (fault == NULL && left.length > 0)
        fault = "the server is shutting down";
    if (fault != NULL)
        conn->events->lost(conn, &left, fault, conn->opaque);
}

unsigned fl_conn_in_flight(const FlConn *conn)
{
    return conn->under_way.length + conn->answered.length;
}

uint64_t fl_conn_bytes(const FlConn *conn)
{
    return conn->bytes;
}

gint64 fl_conn_oldest(const FlConn *conn)
{
    gint64 oldest = G_MAXINT64;

    for (const GList *l = conn->under_way.head; l != NULL; l = l->next)
        oldest = MIN(oldest, ((const FlRead *)l->data)->since);
    return oldest;
}

gint64 fl_conn_last_sign(const FlConn *conn)
{
    return conn->last_sign;
}
