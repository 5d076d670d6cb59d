/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "conn.h"

#include "blockstatus.h"
#include "pread.h"
#include "wait.h"
#include "walk.h"

#include <errno.h>

/* Bytes of answers to receive in one iteration of the loop. */
#define TURN_BYTES (256u << 10)

typedef struct NbdConn NbdConn;

typedef struct {
    GSource source;
    NbdConn *conn;
} ConnSource;

struct NbdConn {
    FlConn conn; /* first */
    struct nbd_handle *nbd;
    GSource *source; /* NULL until started */
    gpointer tag;    /* the socket's tag in SOURCE */
    GIOCondition events;
    bool wrong; /* the server broke the protocol */
};

static NbdConn *nbd_conn(FlConn *conn)
{
    return (NbdConn *)conn;
}

/* Called inside libnbd: only records the answer, since the owner may want to call libnbd. */
static void read_done(void *opaque, int error)
{
    FlRead *read = opaque;

    if (error == FL_READ_WRONG)
        nbd_conn(read->conn)->wrong = true;
    fl_conn_answer(read->conn, read, error);
}

/* Asks libnbd which events it needs before every poll, because any call may have changed them. */
static gboolean conn_prepare(GSource *source, gint *timeout)
{
    NbdConn *conn = ((ConnSource *)source)->conn;
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

static bool is_dead(const NbdConn *conn)
{
    return nbd_aio_is_dead(conn->nbd) || nbd_aio_is_closed(conn->nbd);
}

static gboolean conn_dispatch(GSource *source, GSourceFunc callback, gpointer data)
{
    NbdConn *nbd = ((ConnSource *)source)->conn;
    FlConn *conn = &nbd->conn;
    GIOCondition got = g_source_query_unix_fd(source, nbd->tag);
    uint64_t bytes = conn->bytes;
    guint before;

    g_source_set_ready_time(source, -1);
    fl_conn_note_sign(conn);
    if (got & ~G_IO_OUT) {
        /* libnbd receives one reply per call. Continue while that yields answers, since another
         * loop iteration costs more than a read that finds nothing. TURN_BYTES bounds how long new
         * requests have to wait. */
        do {
            before = conn->answered.length;
            nbd_aio_notify_read(nbd->nbd);
        } while (conn->answered.length > before && conn->under_way.length > 0 &&
                 bytes - conn->bytes < TURN_BYTES);
    } else if (got & G_IO_OUT) {
        nbd_aio_notify_write(nbd->nbd);
    }
    fl_conn_tell(conn);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs conn_funcs = {
    .prepare = conn_prepare,
    .check = conn_check,
    .dispatch = conn_dispatch,
};

static bool conn_verify(FlConn *conn, const FlDiskMaps *maps, const FlWait *wait, GError **error)
{
    return fl_block_status_verify(nbd_conn(conn)->nbd, maps, wait, error);
}

static bool conn_peek(FlConn *conn, const FlSpan *spans, unsigned n, void **bytes,
                      const FlWait *wait, GError **error)
{
    return fl_pread_spans(nbd_conn(conn)->nbd, spans, n, bytes, wait, error);
}

static bool conn_has(FlConn *conn, const char *context)
{
    return nbd_can_meta_context(nbd_conn(conn)->nbd, context) > 0;
}

static bool conn_status(FlConn *conn, const char *context, const FlSpan *spans, unsigned n,
                        FlMap **maps, const FlWait *wait, GError **error)
{
    const char *const contexts[] = {context, NULL};
    FlMapsUse use = {0};
    FlWait fixed = *wait;
    bool refused;
    g_autofree FlMapBuilder **builders =
        fl_walk(nbd_conn(conn)->nbd, contexts, spans, n, &use, &refused, &fixed, error);

    for (unsigned i = 0; builders != NULL && i < n; i++)
        maps[i] = fl_map_builder_finish(builders[i]);
    return builders != NULL;
}

static void conn_start(FlConn *conn)
{
    NbdConn *nbd = nbd_conn(conn);

    nbd->source = g_source_new(&conn_funcs, sizeof(ConnSource));
    ((ConnSource *)nbd->source)->conn = nbd;
    /* Otherwise GLib removes and adds the socket on each dispatch, which wakes its own poll
     * twice. */
    g_source_set_can_recurse(nbd->source, TRUE);
    nbd->tag = g_source_add_unix_fd(nbd->source, nbd_aio_get_fd(nbd->nbd), 0);
    g_source_attach(nbd->source, NULL);
}

static void conn_read(FlConn *conn, FlRead *read)
{
    read->command =
        fl_pread_start(nbd_conn(conn)->nbd, read->buf, read->length, read->offset, read_done, read);
}

/* A server that is shutting down replies with an error: retry those reads elsewhere. */
static bool conn_settle(FlConn *conn, FlRead *read)
{
    int error = read->error;

    fl_pread_abandon(read->command);
    read->command = NULL;
    return error != FL_READ_WRONG && error != ESHUTDOWN && error != ENOTCONN &&
           (error == 0 || error == EPROTO || !is_dead(nbd_conn(conn)));
}

static const char *conn_fault(const FlConn *conn)
{
    const NbdConn *nbd = (const NbdConn *)conn;

    if (nbd->wrong)
        return "a reply did not contain exactly the requested bytes";
    return is_dead(nbd) ? "the connection was lost" : NULL;
}

static void conn_wake(FlConn *conn)
{
    g_source_set_ready_time(nbd_conn(conn)->source, 0);
}

static void conn_close(FlConn *conn)
{
    NbdConn *nbd = nbd_conn(conn);

    if (nbd->source != NULL) {
        g_source_destroy(nbd->source);
        g_source_unref(nbd->source);
    }
    fl_nbd_close(nbd->nbd);
}

static const FlConnOps conn_ops = {
    .verify = conn_verify,
    .peek = conn_peek,
    .has = conn_has,
    .status = conn_status,
    .start = conn_start,
    .read = conn_read,
    .settle = conn_settle,
    .fault = conn_fault,
    .wake = conn_wake,
    .close = conn_close,
};

FlConn *fl_nbd_conn_new(struct nbd_handle *nbd)
{
    FlConn *conn = fl_conn_alloc(sizeof(NbdConn), &conn_ops);

    nbd_conn(conn)->nbd = nbd;
    return conn;
}
