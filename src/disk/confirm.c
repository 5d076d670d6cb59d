/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "confirm.h"

#include "util/deadline.h"

#include <errno.h>

struct FlConfirm {
    FlDiskConfirmOps ops;
    gint64 timeout; /* microseconds */
    GQueue held;    /* of FlRead, linked through their link field, in order of arrival */
    guint source;   /* timer for reads held too long; 0 while nothing is held */
};

/* A query, wrapped in a read without data. */
typedef struct {
    FlRead read; /* first */
    void (*done)(errint_t result, void *opaque);
    void *opaque;
} Query;

FlConfirm *fl_confirm_new(const FlDiskConfirmOps *ops, unsigned timeout)
{
    FlConfirm *confirm = g_new0(FlConfirm, 1);

    confirm->ops = *ops;
    confirm->timeout = fl_deadline_seconds(timeout);
    return confirm;
}

static void rest(FlConfirm *confirm)
{
    if (confirm->held.length == 0 && confirm->source != 0)
        g_clear_handle_id(&confirm->source, g_source_remove);
}

void fl_confirm_free(FlConfirm *confirm)
{
    if (confirm == NULL)
        return;
    rest(confirm);
    g_free(confirm);
}

static void end_first(FlConfirm *confirm, errint_t result)
{
    FlRead *read = g_queue_pop_head_link(&confirm->held)->data;

    read->done(read, result);
}

static FlRead *first(const FlConfirm *confirm)
{
    return confirm->held.head != NULL ? confirm->held.head->data : NULL;
}

/* Runs each second: fails reads that were held too long, even if no confirmation ever comes. */
static gboolean expire(gpointer opaque)
{
    FlConfirm *confirm = opaque;
    gint64 late = g_get_monotonic_time() - confirm->timeout;

    while (first(confirm) != NULL && first(confirm)->since <= late)
        end_first(confirm, -EIO);
    if (confirm->held.length > 0)
        return G_SOURCE_CONTINUE;
    confirm->source = 0;
    return G_SOURCE_REMOVE;
}

bool fl_confirm_is_needed(const FlConfirm *confirm)
{
    return confirm != NULL && !confirm->ops.is_whole(confirm->ops.opaque);
}

void fl_confirm_hold(FlConfirm *confirm, FlRead *read)
{
    read->link = (GList){.data = read};
    read->since = g_get_monotonic_time();
    read->number = confirm->ops.ask(confirm->ops.opaque);
    g_queue_push_tail_link(&confirm->held, &read->link);
    if (confirm->source == 0)
        confirm->source = g_timeout_add_seconds(1, expire, confirm);
}

static void query_done(FlRead *read, errint_t result)
{
    g_autofree Query *query = (Query *)read;

    query->done(result, query->opaque);
}

void fl_confirm_query(FlConfirm *confirm, void (*done)(errint_t result, void *opaque), void *opaque)
{
    Query *query = g_new0(Query, 1);

    query->read.done = query_done;
    query->done = done;
    query->opaque = opaque;
    fl_confirm_hold(confirm, &query->read);
}

void fl_confirm_end(FlConfirm *confirm, uint64_t number, errint_t result)
{
    while (first(confirm) != NULL && first(confirm)->number <= number)
        end_first(confirm, result);
    rest(confirm);
}

void fl_confirm_give_up(FlConfirm *confirm, GQueue *left)
{
    for (GList *l; (l = g_queue_pop_head_link(&confirm->held)) != NULL;)
        g_queue_push_tail_link(left, l);
    rest(confirm);
}
