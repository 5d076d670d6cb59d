/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Scheduling of reads to connections. */
#include "queue.h"

#include <errno.h>

#define SMALL  4096u
#define LARGE  (1u << 20)
#define IDLERS 3 /* connections */
#define READS  200

typedef struct {
    FlConn conn; /* first */
    GQueue sent; /* of FlRead, in the order sent */
} Idler;

static void no_op(FlConn *conn)
{
}

static void idler_read(FlConn *conn, FlRead *read)
{
    g_queue_push_tail(&((Idler *)conn)->sent, read);
}

static bool idler_settle(FlConn *conn, FlRead *read)
{
    return true;
}

static const char *idler_fault(const FlConn *conn)
{
    return NULL;
}

static void idler_close(FlConn *conn)
{
    g_queue_clear(&((Idler *)conn)->sent);
}

static void idler_answered(FlConn *conn, FlRead *read, void *opaque)
{
    read->done(read, read->error == 0 ? 0 : -EIO);
}

/* N connections to a server that answers on request. */
static GPtrArray *make_conns(unsigned n)
{
    static const FlConnOps ops = {.start = no_op,
                                  .read = idler_read,
                                  .settle = idler_settle,
                                  .fault = idler_fault,
                                  .wake = no_op,
                                  .close = idler_close};
    static const FlConnEvents events = {.answered = idler_answered};
    GPtrArray *conns = g_ptr_array_new();

    for (unsigned i = 0; i < n; i++) {
        FlConn *conn = fl_conn_alloc(sizeof(Idler), &ops);

        fl_conn_start(conn, &events, NULL);
        g_ptr_array_add(conns, conn);
    }
    return conns;
}

static Idler *idler(const GPtrArray *conns, unsigned i)
{
    return conns->pdata[i];
}

static void close_conns(GPtrArray *conns)
{
    GQueue left = G_QUEUE_INIT;

    for (guint i = 0; i < conns->len; i++)
        fl_conn_close(conns->pdata[i], &left);
    g_ptr_array_unref(conns);
}

static void read_done(FlRead *read, errint_t result)
{
    g_assert_cmpint(result, ==, 0);
}

static void push(FlReadQueue *queue, FlRead *read, size_t length, bool ahead)
{
    *read = (FlRead){.length = length, .ahead = ahead, .done = read_done};
    read->link.data = read;
    fl_read_queue_push(queue, read);
}

/* Demand reads overtake read-ahead; each kind keeps its order, also when requeued after a lost
 * connection. */
static void test_order(void)
{
    GPtrArray *none = g_ptr_array_new(), *conns = make_conns(1);
    FlReadQueue queue = {0};
    FlRead ahead[2], demand[3];
    const FlRead *order[] = {&demand[0], &demand[1], &demand[2], &ahead[0], &ahead[1]};

    push(&queue, &ahead[0], SMALL, true);
    push(&queue, &demand[1], SMALL, false);
    push(&queue, &ahead[1], SMALL, true);
    push(&queue, &demand[2], SMALL, false);
    demand[0] = (FlRead){.length = SMALL, .done = read_done, .link = {.data = &demand[0]}};
    fl_read_queue_put_back(&queue, &demand[0]);
    fl_read_queue_pump(&queue, none, 0);
    g_assert_cmpuint(fl_read_queue_length(&queue), ==, G_N_ELEMENTS(order));

    fl_read_queue_pump(&queue, conns, 0);
    g_assert_cmpuint(fl_read_queue_length(&queue), ==, 0);
    for (guint i = 0; i < G_N_ELEMENTS(order); i++)
        g_assert_true(g_queue_peek_nth(&idler(conns, 0)->sent, i) == order[i]);
    close_conns(conns);
    g_ptr_array_unref(none);
}

/* Read-ahead always leaves one connection free for demand reads. */
static void test_line_of_its_own(void)
{
    GPtrArray *conns = make_conns(IDLERS);
    FlReadQueue queue = {0};
    g_autofree FlRead *ahead = g_new(FlRead, READS);
    GQueue left = G_QUEUE_INIT;
    FlRead demand;

    for (unsigned i = 0; i < READS; i++)
        push(&queue, &ahead[i], LARGE, true);
    fl_read_queue_pump(&queue, conns, 0);
    g_assert_cmpuint(idler(conns, 0)->sent.length, ==, 0);
    /* The other connections are full; the rest is queued. */
    g_assert_cmpuint(idler(conns, 1)->sent.length, ==, idler(conns, 2)->sent.length);
    g_assert_cmpuint(idler(conns, 1)->sent.length, >, 1);
    g_assert_cmpuint(fl_read_queue_length(&queue), ==, READS - 2 * idler(conns, 1)->sent.length);

    push(&queue, &demand, SMALL, false);
    fl_read_queue_pump(&queue, conns, 0);
    g_assert_true(g_queue_peek_head(&idler(conns, 0)->sent) == &demand);

    /* All queued reads are given up. */
    fl_read_queue_give_up(&queue, &left);
    g_assert_cmpuint(fl_read_queue_length(&queue), ==, 0);
    g_assert_cmpuint(left.length, ==, READS - 2 * idler(conns, 1)->sent.length);
    g_assert_true(g_queue_peek_tail(&left) == &ahead[READS - 1]);
    close_conns(conns);
}

/* A single connection is shared with read-ahead. */
static void test_single(void)
{
    GPtrArray *conns = make_conns(1);
    FlReadQueue queue = {0};
    FlRead ahead;

    push(&queue, &ahead, LARGE, true);
    fl_read_queue_pump(&queue, conns, 0);
    g_assert_cmpuint(idler(conns, 0)->sent.length, ==, 1);
    close_conns(conns);
}

/* The second connection gets reads only when the first is busy enough; none starves or exceeds its
 * share. */
static void test_fill(void)
{
    GPtrArray *conns = make_conns(2);
    FlReadQueue queue = {0};
    g_autofree FlRead *reads = g_new(FlRead, READS);
    unsigned sent = 0;

    for (unsigned i = 0; i < READS; i++)
        push(&queue, &reads[i], SMALL, false);
    fl_read_queue_pump(&queue, conns, 0);
    sent = idler(conns, 0)->sent.length + idler(conns, 1)->sent.length;
    g_assert_cmpuint(idler(conns, 0)->sent.length, ==, idler(conns, 1)->sent.length);
    g_assert_true(g_queue_peek_nth(&idler(conns, 0)->sent, 0) == &reads[0]);
    g_assert_true(g_queue_peek_nth(&idler(conns, 0)->sent, 1) == &reads[1]);
    g_assert_cmpuint(sent + fl_read_queue_length(&queue), ==, READS);

    /* Each answer allows one more read. */
    for (unsigned i = 0; i < READS; i++) {
        Idler *from = idler(conns, i % 2);
        FlRead *read = g_queue_pop_head(&from->sent);

        g_assert_nonnull(read);
        fl_conn_answer(&from->conn, read, 0);
        fl_conn_tell(&from->conn);
        fl_read_queue_pump(&queue, conns, 0);
        g_assert_cmpuint(fl_conn_in_flight(&from->conn), <=, sent / 2);
    }
    g_assert_cmpuint(fl_read_queue_length(&queue), ==, 0);
    close_conns(conns);
}

/* The rate never exceeds the limit over any interval; delayed reads are sent in order, and counted
 * when sent. */
static void test_throttle(void)
{
    enum { RATE = 1 << 20, STEP = 1000, SECONDS = 10 };
    GPtrArray *conns = make_conns(IDLERS);
    FlThrottle throttle = {0};
    FlReadQueue queue = {.throttle = &throttle};
    g_autofree FlRead *reads = g_new(FlRead, READS);
    gint64 now = G_USEC_PER_SEC, start = now, wait;
    uint64_t sent = 0;
    unsigned next = 0;

    fl_throttle_set(&throttle, RATE, now);
    for (unsigned i = 0; i < READS; i++)
        push(&queue, &reads[i], (64 << 10) + SMALL * (i % 7), i % 3 == 0);
    for (; now < start + SECONDS * G_USEC_PER_SEC; now += STEP) {
        wait = fl_read_queue_pump(&queue, conns, now);
        for (guint i = 0; i < conns->len; i++) {
            for (FlRead *read; (read = g_queue_pop_head(&idler(conns, i)->sent)) != NULL;) {
                g_assert_cmpint(read->since, ==, now);
                sent += read->length;
                next++;
                fl_conn_answer(&idler(conns, i)->conn, read, 0);
            }
            fl_conn_tell(&idler(conns, i)->conn);
        }
        g_assert_cmpuint(sent, <=,
                         (uint64_t)(now - start) * RATE / G_USEC_PER_SEC + RATE / 10 + LARGE / 8);
        if (fl_read_queue_length(&queue) > 0) {
            g_assert_cmpint(wait, >, 0);
            /* The next read is allowed exactly when announced. */
            g_assert_cmpint(fl_throttle_take(&throttle, 1, now + wait - 2), >, 0);
        }
    }
    /* The rate is reached, too. */
    g_assert_cmpuint(sent, >=, (uint64_t)(SECONDS - 1) * RATE);
    g_assert_cmpuint(next, <, READS);

    /* A debt is kept in bytes when the rate changes, and dropped with the limit. */
    fl_throttle_set(&throttle, RATE, now += G_USEC_PER_SEC);
    g_assert_cmpint(fl_throttle_take(&throttle, 4 * RATE, now), ==, 0);
    fl_throttle_set(&throttle, 2 * RATE, now);
    g_assert_cmpint(fl_throttle_take(&throttle, 1, now), >, 1900000);
    g_assert_cmpint(fl_throttle_take(&throttle, 1, now), <=, 2000001);
    fl_throttle_set(&throttle, 0, now);
    g_assert_cmpint(fl_read_queue_pump(&queue, conns, now), ==, 0);
    close_conns(conns);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/queue/order", test_order);
    g_test_add_func("/queue/line-of-its-own", test_line_of_its_own);
    g_test_add_func("/queue/single", test_single);
    g_test_add_func("/queue/fill", test_fill);
    g_test_add_func("/queue/throttle", test_throttle);
    return g_test_run();
}
