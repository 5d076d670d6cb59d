/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "conn.h"

#include <errno.h>

/* Answers that are taken in one turn of the loop. */
#define TURN_BYTES (256u << 10)

typedef struct {
    GSource source;
    FlConn *conn;
} ConnSource;

struct FlConn {
    struct nbd_handle *nbd;
    const FlConnOps *ops;
    void *opaque;
    GSource *source;
    gpointer tag; /* of the socket in the source */
    GIOCondition events;
    GQueue under_way; /* of FlRead, by their links */
    GQueue answered;  /* answered inside libnbd, not told yet */
    bool sending;     /* inside nbd_aio_pread() */
    uint64_t bytes;   /* of what is under way */
    gint64 last_sign;
    bool telling; /* what is answered meanwhile is told without another turn of the loop */
};

/* Called inside libnbd: only notes the answer, since the owner may want to call libnbd. */
static int read_done(void *opaque, int *error)
{
    FlRead *read = opaque;
    FlConn *conn = read->conn;

    read->error = *error == 0 && read->arrived != read->length ? EPROTO : *error;
    g_queue_unlink(&conn->under_way, &read->link);
    g_queue_push_tail_link(&conn->answered, &read->link);
    conn->bytes -= read->length;
    /* A command that fails while it is being sent is still looked at by libnbd (1.14) for its
     * return value. The connection is dead then, and the command goes with it. */
    return !conn->sending;
}

/* Called inside libnbd for each part of a reply. libnbd lets a server leave some out, and what was
 * not sent is whatever the buffer held before. */
static int chunk_arrived(void *opaque, const void *buf, size_t length, uint64_t offset,
                         unsigned status, int *error)
{
    if (status == LIBNBD_READ_DATA || status == LIBNBD_READ_HOLE)
        ((FlRead *)opaque)->arrived += length;
    return 0;
}

/* libnbd is asked what it waits for before every poll, because any call may have changed it. */
static gboolean conn_prepare(GSource *source, gint *timeout)
{
    FlConn *conn = ((ConnSource *)source)->conn;
    unsigned direction = nbd_aio_get_direction(conn->nbd);
    GIOCondition events = 0;

    if (direction & LIBNBD_AIO_DIRECTION_READ)
        events |= G_IO_IN;
    if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        events |= G_IO_OUT;
    if (events != conn->events) {
        conn->events = events;
        g_source_modify_unix_fd(source, conn->tag, events);
    }
    *timeout = -1;
    return FALSE;
}

static gboolean conn_check(GSource *source)
{
    return g_source_query_unix_fd(source, ((ConnSource *)source)->conn->tag) != 0;
}

static bool is_dead(const FlConn *conn)
{
    return nbd_aio_is_dead(conn->nbd) || nbd_aio_is_closed(conn->nbd);
}

/* A server that is shutting down says so in answers: they are asked again elsewhere. */
static bool is_lost(const FlConn *conn, int error)
{
    return error != 0 && (error == ESHUTDOWN || error == ENOTCONN || is_dead(conn));
}

/* Tells the owner what was answered. CONN may be gone afterwards. */
static void tell(FlConn *conn)
{
    GQueue left = G_QUEUE_INIT;
    bool dead;

    conn->telling = true;
    /* The owner sends new reads from answered(), which may find the connection dead. */
    for (GList *l; (l = g_queue_pop_head_link(&conn->answered)) != NULL;) {
        FlRead *read = l->data;

        if (is_lost(conn, read->error))
            g_queue_push_tail_link(&left, l);
        else
            conn->ops->answered(conn, read, conn->opaque);
    }
    conn->telling = false;
    dead = is_dead(conn);
    if (dead || left.length > 0)
        conn->ops->lost(conn, &left,
                        dead ? "the connection was lost" : "the server is shutting down",
                        conn->opaque);
}

static gboolean conn_dispatch(GSource *source, GSourceFunc callback, gpointer data)
{
    FlConn *conn = ((ConnSource *)source)->conn;
    GIOCondition got = g_source_query_unix_fd(source, conn->tag);
    uint64_t bytes = conn->bytes;
    guint before;

    g_source_set_ready_time(source, -1);
    conn->last_sign = g_get_monotonic_time();
    if (got & ~G_IO_OUT) {
        /* libnbd takes one reply a call: go on as long as that brings answers, since another turn
         * of the loop costs more than a read that finds nothing. But whoever has asked meanwhile
         * waits no longer than a large answer takes. */
        do {
            before = conn->answered.length;
            nbd_aio_notify_read(conn->nbd);
        } while (conn->answered.length > before && conn->under_way.length > 0 &&
                 bytes - conn->bytes < TURN_BYTES);
    } else if (got & G_IO_OUT) {
        nbd_aio_notify_write(conn->nbd);
    }
    tell(conn);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs conn_funcs = {
    .prepare = conn_prepare,
    .check = conn_check,
    .dispatch = conn_dispatch,
};

FlConn *fl_conn_new(struct nbd_handle *nbd, const FlConnOps *ops, void *opaque)
{
    FlConn *conn = g_new0(FlConn, 1);

    conn->nbd = nbd;
    conn->ops = ops;
    conn->opaque = opaque;
    conn->last_sign = g_get_monotonic_time();
    conn->source = g_source_new(&conn_funcs, sizeof(ConnSource));
    ((ConnSource *)conn->source)->conn = conn;
    /* Or GLib wakes its own poll twice for each dispatch, by taking the socket out and in again. */
    g_source_set_can_recurse(conn->source, TRUE);
    conn->tag = g_source_add_unix_fd(conn->source, nbd_aio_get_fd(nbd), 0);
    g_source_attach(conn->source, NULL);
    return conn;
}

void fl_conn_free(FlConn *conn, GQueue *left)
{
    g_source_destroy(conn->source);
    g_source_unref(conn->source);
    /* First, so that no buffer is written any more when its owner hears of it. */
    if (nbd_aio_is_ready(conn->nbd))
        nbd_aio_disconnect(conn->nbd, 0);
    nbd_close(conn->nbd);
    for (GList *l; (l = g_queue_pop_head_link(&conn->answered)) != NULL;)
        g_queue_push_tail_link(left, l);
    for (GList *l; (l = g_queue_pop_head_link(&conn->under_way)) != NULL;)
        g_queue_push_tail_link(left, l);
    g_free(conn);
}

void fl_conn_read(FlConn *conn, FlRead *read)
{
    nbd_completion_callback done = {.callback = read_done, .user_data = read};
    nbd_chunk_callback chunk = {.callback = chunk_arrived, .user_data = read};
    int64_t sent;

    if (conn->under_way.length == 0)
        conn->last_sign = g_get_monotonic_time();
    read->conn = conn;
    read->error = 0;
    read->arrived = 0;
    g_queue_push_tail_link(&conn->under_way, &read->link);
    conn->bytes += read->length;
    conn->sending = true;
    sent =
        nbd_aio_pread_structured(conn->nbd, read->buf, read->length, read->offset, chunk, done, 0);
    conn->sending = false;
    if (sent < 0) {
        int error = nbd_get_errno() != 0 ? nbd_get_errno() : EIO;
        read_done(read, &error);
    }
    /* libnbd may have answered at once, when it found the connection dead. */
    if (conn->answered.length > 0 && !conn->telling)
        g_source_set_ready_time(conn->source, 0);
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
