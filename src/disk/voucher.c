/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "voucher.h"

#include <errno.h>

struct FlVoucher {
    FlDiskAsk ask;
    void *opaque;
    gint64 timeout; /* microseconds */
    GQueue held;    /* of FlRead, by their links, in the order in which they arrived */
    guint source;   /* looks for those that wait for too long; 0 while nothing is held */
};

FlVoucher *fl_voucher_new(FlDiskAsk ask, void *opaque, unsigned timeout)
{
    FlVoucher *voucher = g_new0(FlVoucher, 1);

    voucher->ask = ask;
    voucher->opaque = opaque;
    voucher->timeout = timeout * G_USEC_PER_SEC;
    return voucher;
}

static void rest(FlVoucher *voucher)
{
    if (voucher->held.length == 0 && voucher->source != 0)
        g_clear_handle_id(&voucher->source, g_source_remove);
}

void fl_voucher_free(FlVoucher *voucher)
{
    if (voucher == NULL)
        return;
    rest(voucher);
    g_free(voucher);
}

static void end_first(FlVoucher *voucher, errint_t result)
{
    FlRead *read = g_queue_pop_head_link(&voucher->held)->data;

    read->done(read, result);
}

static FlRead *first(const FlVoucher *voucher)
{
    return voucher->held.head != NULL ? voucher->held.head->data : NULL;
}

/* Once a second: whoever waits is told that it failed, also if nobody ever answers. */
static gboolean expire(gpointer opaque)
{
    FlVoucher *voucher = opaque;
    gint64 late = g_get_monotonic_time() - voucher->timeout;

    while (first(voucher) != NULL && first(voucher)->since <= late)
        end_first(voucher, -EIO);
    if (voucher->held.length > 0)
        return G_SOURCE_CONTINUE;
    voucher->source = 0;
    return G_SOURCE_REMOVE;
}

void fl_voucher_hold(FlVoucher *voucher, FlRead *read)
{
    read->link = (GList){.data = read};
    read->since = g_get_monotonic_time();
    read->number = voucher->ask(voucher->opaque);
    g_queue_push_tail_link(&voucher->held, &read->link);
    if (voucher->source == 0)
        voucher->source = g_timeout_add_seconds(1, expire, voucher);
}

void fl_voucher_end(FlVoucher *voucher, uint64_t number, errint_t result)
{
    while (first(voucher) != NULL && first(voucher)->number <= number)
        end_first(voucher, result);
    rest(voucher);
}

void fl_voucher_give_up(FlVoucher *voucher, GQueue *left)
{
    for (GList *l; (l = g_queue_pop_head_link(&voucher->held)) != NULL;)
        g_queue_push_tail_link(left, l);
    rest(voucher);
}
