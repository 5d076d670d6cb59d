/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/nbd/conn.h"

#include "source/nbd/pread.h"

#include <errno.h>

/* Answers that are taken in one turn of the loop. */
#define TURN_BYTES (256u << 10)
/* Replies to one read that are against the protocol, each on a connection of its own. */
#define FAULTS_MAX 2

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
    bool wrong;       /* the server broke the protocol */
    uint64_t bytes;   /* of what is under way */
    gint64 last_sign;
    bool telling; /* what is answered meanwhile is told without another turn of the loop */
};

/* Called inside libnbd: only notes the answer, since the owner may want to call libnbd. */
static void read_done(void *opaque, int error)
{
    FlRead *read = opaque;
    FlConn *conn = read->conn;

    read->error = error;
    g_queue_unlink(&conn->under_way, &read->link);
    g_queue_push_tail_link(&conn->answered, &read->link);
    conn->bytes -= read->length;
    if (error != FL_PREAD_WRONG)
        return;
    conn->wrong = true;
    if (++read->faults >= FAULTS_MAX)
        read->error = EPROTO;
}

/* Lets go of what libnbd has of READ. */
static void let_go(FlRead *read)
{
    fl_pread_abandon(read->pread);
    read->pread = NULL;
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
    return error == FL_PREAD_WRONG || error == ESHUTDOWN || error == ENOTCONN ||
           (error != 0 && error != EPROTO && is_dead(conn));
}

static const char *why_lost(const FlConn *conn, bool dead)
{
    return conn->wrong ? "a reply did not bring exactly the bytes that were asked for"
           : dead      ? "the connection was lost"
                       : "the server is shutting down";
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

        let_go(read);
        if (is_lost(conn, read->error))
            g_queue_push_tail_link(&left, l);
        else
            conn->ops->answered(conn, read, conn->opaque);
    }
    conn->telling = false;
    dead = is_dead(conn);
    if (dead || conn->wrong || left.length > 0)
        conn->ops->lost(conn, &left, why_lost(conn, dead), conn->opaque);
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
    /* Nothing is noted any more: nbd_close() may call what is under way done. */
    for (GList *l = conn->under_way.head; l != NULL; l = l->next)
        let_go(l->data);
    for (GList *l = conn->answered.head; l != NULL; l = l->next)
        let_go(l->data);
    /* First, so that no buffer is written any more when its owner hears of it. */
    fl_nbd_close(conn->nbd);
    for (GList *l; (l = g_queue_pop_head_link(&conn->answered)) != NULL;)
        g_queue_push_tail_link(left, l);
    for (GList *l; (l = g_queue_pop_head_link(&conn->under_way)) != NULL;)
        g_queue_push_tail_link(left, l);
    g_free(conn);
}

void fl_conn_read(FlConn *conn, FlRead *read)
{
    if (conn->under_way.length == 0)
        conn->last_sign = g_get_monotonic_time();
    read->conn = conn;
    read->error = 0;
    g_queue_push_tail_link(&conn->under_way, &read->link);
    conn->bytes += read->length;
    read->pread =
        fl_pread_start(conn->nbd, read->buf, read->length, read->offset, read_done, read);
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
