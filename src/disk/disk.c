/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk-private.h"

#include "blocksize.h"
#include "util/deadline.h"

#include <errno.h>

#define IDLE_SECONDS 30
#define TICK_MS      100
/* Maximum time in milliseconds until throttled reads are tried again: the limit may change. */
#define THROTTLE_MAX 1000
/* Seconds from an attempt to use the relay, or the loss of its connection, to the next attempt. */
#define RELAY_PAUSE 60

static void requeue(FlDisk *disk, GQueue *left);

FlDisk *fl_disk_new(FlSource *source, FlExportInfo *info, const FlDiskOptions *options)
{
    FlDisk *disk = g_new0(FlDisk, 1);

    g_atomic_ref_count_init(&disk->refs);
    disk->peer.source = fl_source_ref(source);
    disk->peer.info = info;
    disk->peer.options = *options;
    fl_workers_ref(options->workers);
    disk->cancel = g_cancellable_new();
    disk->waiters = fl_waiters_new();
    disk->fingerprint = fl_fingerprint_new();
    disk->conns = g_ptr_array_new();
    disk->queue.throttle = options->throttle;
    disk->conns_max = info->multi_conn ? options->connections : 1;
    disk->backoff = FL_BACKOFF_MIN;
    return disk;
}

FlDisk *fl_disk_ref(FlDisk *disk)
{
    g_atomic_ref_count_inc(&disk->refs);
    return disk;
}

void fl_disk_unref(FlDisk *disk)
{
    if (disk == NULL || !g_atomic_ref_count_dec(&disk->refs))
        return;
    fl_disk_maps_unref(disk->maps);
    fl_source_unref(disk->peer.source);
    fl_source_unref(disk->peer.relay);
    fl_workers_unref(disk->peer.options.workers);
    fl_export_info_free(disk->peer.info);
    g_object_unref(disk->cancel);
    fl_waiters_free(disk->waiters);
    fl_fingerprint_free(disk->fingerprint);
    fl_confirm_free(disk->confirm);
    g_ptr_array_unref(disk->conns);
    g_free(disk->failure);
    g_free(disk->condemned);
    g_free(disk);
}

const FlExportInfo *fl_disk_info(const FlDisk *disk)
{
    return disk->peer.info;
}

const char *fl_disk_label(const FlDisk *disk)
{
    return fl_source_label(disk->peer.source);
}

const FlDiskMaps *fl_disk_maps(const FlDisk *disk)
{
    return disk->maps;
}

const char *fl_disk_failure(const FlDisk *disk)
{
    return disk->failure != NULL ? disk->failure : g_atomic_pointer_get((char **)&disk->condemned);
}

static bool has_relay(const FlDisk *disk)
{
    return disk->conns->len > 0 && ((const FlConn *)disk->conns->pdata[0])->confirmed;
}

const FlDiskStats *fl_disk_stats(FlDisk *disk)
{
    disk->stats.connections = disk->conns->len;
    disk->stats.connecting = disk->connecting != 0;
    disk->stats.relay = has_relay(disk);
    disk->stats.queued = fl_read_queue_length(&disk->queue);
    disk->stats.in_flight = 0;
    for (guint i = 0; i < disk->conns->len; i++)
        disk->stats.in_flight += fl_conn_in_flight(disk->conns->pdata[i]);
    return &disk->stats;
}

/* Fails reads that never reached the server: DONE must be called from the loop. */
static gboolean end_doomed(gpointer opaque)
{
    FlDisk *disk = opaque;

    disk->doom_source = 0;
    if (disk->failure != NULL)
        fl_waiters_tell(disk->waiters, disk, -EIO);
    for (GList *l; (l = g_queue_pop_head_link(&disk->doomed)) != NULL;) {
        FlRead *read = l->data;
        read->done(read, -EIO);
    }
    fl_disk_unref(disk);
    return G_SOURCE_REMOVE;
}

static void doom(FlDisk *disk, GQueue *reads)
{
    for (GList *l; (l = g_queue_pop_head_link(reads)) != NULL;)
        g_queue_push_tail_link(&disk->doomed, l);
    if ((disk->doomed.length > 0 || disk->failure != NULL) && disk->doom_source == 0)
        disk->doom_source =
            g_idle_add_full(G_PRIORITY_DEFAULT, end_doomed, fl_disk_ref(disk), NULL);
}

static void close_connections(FlDisk *disk, GQueue *left)
{
    while (disk->conns->len > 0)
        fl_conn_close(g_ptr_array_steal_index(disk->conns, disk->conns->len - 1), left);
    if (disk->watch_source != 0)
        g_clear_handle_id(&disk->watch_source, g_source_remove);
    if (disk->retry_source != 0)
        g_clear_handle_id(&disk->retry_source, g_source_remove);
    if (disk->throttle_source != 0)
        g_clear_handle_id(&disk->throttle_source, g_source_remove);
}

void fl_disk_fail(FlDisk *disk, const char *why)
{
    GQueue left = G_QUEUE_INIT;

    if (disk->failure != NULL)
        return;
    disk->failure = g_strdup(why);
    g_cancellable_cancel(disk->cancel);
    close_connections(disk, &left);
    if (disk->confirm != NULL)
        fl_confirm_give_up(disk->confirm, &left);
    fl_read_queue_give_up(&disk->queue, &left);
    doom(disk, &left);
}

void fl_disk_fail_loudly(FlDisk *disk, const char *why)
{
    g_warning("export \"%s\" of %s: %s; its reads fail from now on", disk->peer.info->name,
              fl_disk_label(disk), why);
    fl_disk_fail(disk, why);
}

static gboolean take_condemned(gpointer opaque)
{
    FlDisk *disk = opaque;

    if (disk->failure == NULL)
        fl_disk_fail_loudly(disk, g_atomic_pointer_get(&disk->condemned));
    return G_SOURCE_REMOVE;
}

void fl_disk_condemn(FlDisk *disk, const char *why)
{
    char *copy = g_strdup(why);

    if (!g_atomic_pointer_compare_and_exchange(&disk->condemned, NULL, copy)) {
        g_free(copy);
        return;
    }
    g_idle_add_full(G_PRIORITY_HIGH, take_condemned, fl_disk_ref(disk),
                    (GDestroyNotify)fl_disk_unref);
}

void fl_disk_set_confirm(FlDisk *disk, const FlDiskConfirmOps *ops)
{
    disk->confirm = fl_confirm_new(ops, disk->peer.options.timeout);
    disk->peer.relay = ops->relay != NULL ? fl_source_ref(ops->relay) : NULL;
}

void fl_disk_confirm(FlDisk *disk, uint64_t number, bool good)
{
    bool condemned = g_atomic_pointer_get(&disk->condemned) != NULL;

    if (disk->confirm != NULL)
        fl_confirm_end(disk->confirm, number, good && !condemned ? 0 : -EIO);
}

void fl_disk_suspend(FlDisk *disk)
{
    GQueue left = G_QUEUE_INIT;

    disk->suspended = true;
    /* Workers have connections too. */
    g_cancellable_cancel(disk->cancel);
    g_object_unref(disk->cancel);
    disk->cancel = g_cancellable_new();
    close_connections(disk, &left);
    requeue(disk, &left);
}

bool fl_disk_is_still(const FlDisk *disk)
{
    return disk->conns->len == 0 && disk->workers == 0;
}

static gboolean tick(gpointer unused)
{
    return G_SOURCE_CONTINUE;
}

void fl_disk_close(FlDisk *disk, gint64 deadline)
{
    guint ticks = g_timeout_add(TICK_MS, tick, NULL);

    fl_disk_fail(disk, "it was closed");
    while (disk->doom_source != 0 || (!fl_disk_is_still(disk) && g_get_monotonic_time() < deadline))
        g_main_context_iteration(NULL, TRUE);
    g_source_remove(ticks);
}

bool fl_disk_has_fault(FlDisk *disk)
{
    g_autofree char *fault = fl_source_fault(disk->peer.source, disk->peer.info->name);

    if (fault != NULL)
        fl_disk_condemn(disk, fault);
    return fault != NULL;
}

/* Connections */

static gint64 seconds_since(gint64 time)
{
    return (g_get_monotonic_time() - time) / G_USEC_PER_SEC;
}

static void conn_answered(FlConn *conn, FlRead *read, void *opaque)
{
    FlDisk *disk = opaque;
    /* The order matters: call this before checking whether the disk is condemned, since the thread
     * that condemns it is the first to know that the job has ended. */
    bool hold = read->error == 0 && !conn->confirmed && fl_confirm_is_needed(disk->confirm);

    disk->down_since = 0;
    disk->backoff = FL_BACKOFF_MIN;
    disk->stats.requests++;
    if (read->error == 0 &&
        (fl_disk_has_fault(disk) || g_atomic_pointer_get(&disk->condemned) != NULL))
        read->error = EIO;
    if (read->error == 0) {
        disk->stats.bytes_read += read->length;
        fl_rate_add(&disk->stats.rate, read->length, g_get_monotonic_time());
        fl_fingerprint_note(disk->fingerprint, read, disk->peer.info);
    } else {
        disk->stats.errors++;
    }
    if (read->error == 0 && hold)
        fl_confirm_hold(disk->confirm, read);
    else
        read->done(read, read->error == 0 ? 0 : -EIO);
    fl_disk_pump(disk);
}

/* Seconds after which pending operations fail, regardless of the server. */
static gint64 patience(const FlDisk *disk)
{
    return (gint64)disk->peer.options.reconnect + disk->peer.options.timeout;
}

/* Requeues reads in front, except those that have waited too long. */
static void requeue(FlDisk *disk, GQueue *left)
{
    GQueue late = G_QUEUE_INIT;

    for (GList *l; (l = g_queue_pop_tail_link(left)) != NULL;) {
        FlRead *read = l->data;

        if (seconds_since(read->since) >= patience(disk))
            g_queue_push_head_link(&late, l);
        else
            fl_read_queue_put_back(&disk->queue, read);
    }
    doom(disk, &late);
}

/* Without a good answer, too: then the data of each read decides. */
static void end_doubt(errint_t result, void *opaque)
{
    g_autoptr(FlDisk) disk = opaque;

    disk->doubtful = false;
    fl_disk_pump(disk);
}

/* It may be the first sign that the VM's job has ended and that its NBD server is ending, and
 * QEMU 7.2 hangs if its server is stopped while a client is negotiating: so ask the VM before
 * connecting again. */
static void relay_lost(FlDisk *disk)
{
    disk->relay_again = fl_deadline_in(RELAY_PAUSE);
    disk->doubtful = fl_confirm_is_needed(disk->confirm);
    if (disk->doubtful)
        fl_confirm_query(disk->confirm, end_doubt, fl_disk_ref(disk));
}

static void conn_lost(FlConn *conn, GQueue *left, const char *why, void *opaque)
{
    FlDisk *disk = opaque;
    bool relay = conn->confirmed;

    g_info("export \"%s\" of %s%s: %s", disk->peer.info->name, fl_disk_label(disk),
           relay ? ", relay" : "", why);
    g_ptr_array_remove(disk->conns, conn);
    fl_conn_close(conn, left);
    if (relay) {
        relay_lost(disk);
        requeue(disk, left);
        fl_disk_pump(disk);
        return;
    }
    disk->lost = true;
    if (disk->down_since == 0)
        disk->down_since = g_get_monotonic_time();
    requeue(disk, left);
    if (disk->peer.options.reconnect == 0 && disk->conns->len == 0)
        fl_disk_fail_loudly(disk, why);
    else if (disk->peer.options.reconnect == 0)
        disk->conns_max = disk->conns->len;
    fl_disk_pump(disk);
}

static const FlConnEvents conn_events = {.answered = conn_answered, .lost = conn_lost};

/* Whether a worker that callers wait for hangs where our timeouts do not apply, such as in a name
 * lookup. */
static bool is_stuck(const FlDisk *disk)
{
    gint64 moved = __atomic_load_n(&disk->load_moved, __ATOMIC_RELAXED);

    if (disk->workers == 0)
        return false;
    return (disk->connecting != 0 && disk->conns->len == 0 &&
            seconds_since(disk->connecting) > patience(disk)) ||
           (disk->loading != 0 && seconds_since(MAX(disk->loading, moved)) > patience(disk));
}

static gboolean watch(gpointer opaque)
{
    FlDisk *disk = opaque;

    if (is_stuck(disk)) {
        disk->watch_source = 0;
        fl_disk_fail_loudly(disk, "no connection could be opened in time");
        return G_SOURCE_REMOVE;
    }
    for (guint i = disk->conns->len; i-- > 0;) {
        FlConn *conn = disk->conns->pdata[i];
        gint64 silent = seconds_since(fl_conn_last_sign(conn));
        GQueue left = G_QUEUE_INIT;

        if (fl_conn_in_flight(conn) > 0) {
            if (silent >= disk->peer.options.timeout ||
                seconds_since(fl_conn_oldest(conn)) >= patience(disk))
                conn_lost(conn, &left, "the server does not answer", disk);
        } else if ((silent >= IDLE_SECONDS || disk->resting) && !disk->peer.options.keep_open &&
                   (!disk->peer.options.keep_one || disk->conns->len > 1)) {
            g_ptr_array_remove_index(disk->conns, i);
            fl_conn_close(conn, &left);
        }
        /* Handling one lost connection may have closed others. */
        i = MIN(i, disk->conns->len);
    }
    if (disk->conns->len > 0 || disk->connecting != 0 || disk->loading != 0)
        return G_SOURCE_CONTINUE;
    disk->watch_source = 0;
    return G_SOURCE_REMOVE;
}

void fl_disk_start_watch(FlDisk *disk)
{
    if (disk->watch_source == 0)
        disk->watch_source = g_timeout_add_seconds(1, watch, disk);
}

static gboolean retry(gpointer opaque)
{
    FlDisk *disk = opaque;

    disk->retry_source = 0;
    fl_disk_pump(disk);
    return G_SOURCE_REMOVE;
}

void fl_disk_fail_changed(FlDisk *disk, const GError *error)
{
    g_autofree char *why = g_strdup_printf("it is not the same disk any more: %s", error->message);

    fl_disk_fail_loudly(disk, why);
}

static void connect_failed(FlDisk *disk, bool relay, const GError *error)
{
    g_info("export \"%s\"%s: %s", disk->peer.info->name, relay ? ", relay" : "", error->message);
    if (relay) {
        relay_lost(disk);
    } else if (g_error_matches(error, FL_ERROR, FL_ERROR_CHANGED)) {
        fl_disk_fail_changed(disk, error);
    } else if (disk->conns->len > 0) {
        /* The server may limit connections: make do with those open. */
        disk->conns_max = disk->conns->len;
    } else {
        if (disk->down_since == 0)
            disk->down_since = g_get_monotonic_time();
        if (seconds_since(disk->down_since) >= disk->peer.options.reconnect) {
            fl_disk_fail_loudly(disk, error->message);
            return;
        }
        disk->retry_source = g_timeout_add(disk->backoff, retry, disk);
        disk->backoff = MIN(disk->backoff * 2, FL_BACKOFF_MAX);
    }
}

static void connect_done(FlConn *conn, FlDiskMaps *maps, const GError *error, gpointer opaque)
{
    g_autoptr(FlDisk) disk = opaque;
    bool relay = disk->through_relay;

    disk->workers--;
    disk->connecting = 0;
    if (disk->failure != NULL || disk->suspended) {
        fl_conn_close(conn, NULL);
        return;
    }
    if (conn == NULL) {
        connect_failed(disk, relay, error);
    } else {
        /* The queue uses the first one for reads that somebody waits for. */
        g_ptr_array_insert(disk->conns, conn->confirmed ? 0 : -1, conn);
        fl_conn_start(conn, &conn_events, disk);
        disk->stats.reconnects += disk->lost;
        disk->lost = false;
        fl_disk_start_watch(disk);
    }
    fl_disk_pump(disk);
}

/* Not with a single connection: it has to be fast, too. */
static bool wants_relay(const FlDisk *disk)
{
    return disk->peer.relay != NULL && disk->conns_max > 1 &&
           g_get_monotonic_time() >= disk->relay_again && !has_relay(disk);
}

static void start_connect(FlDisk *disk)
{
    disk->connecting = g_get_monotonic_time();
    disk->through_relay = wants_relay(disk);
    if (disk->through_relay)
        disk->relay_again = fl_deadline_in(RELAY_PAUSE);
    fl_disk_start_watch(disk);
    disk->workers++;
    fl_worker_connect(&disk->peer, disk->through_relay, disk->maps, disk->fingerprint, disk->cancel,
                      connect_done, fl_disk_ref(disk));
}

static bool wants_connection(const FlDisk *disk)
{
    if (disk->connecting != 0 || disk->retry_source != 0 || fl_disk_failure(disk) != NULL ||
        disk->suspended || disk->doubtful || disk->conns->len >= disk->conns_max)
        return false;
    if (disk->conns->len == 0)
        return fl_read_queue_length(&disk->queue) > 0;
    if (wants_relay(disk))
        return true;
    for (guint i = 0; i < disk->conns->len; i++) {
        if (fl_conn_in_flight(disk->conns->pdata[i]) < 2)
            return false;
    }
    return true;
}

static gboolean pump_again(gpointer opaque)
{
    FlDisk *disk = opaque;

    disk->throttle_source = 0;
    fl_disk_pump(disk);
    return G_SOURCE_REMOVE;
}

void fl_disk_pump(FlDisk *disk)
{
    gint64 wait = fl_read_queue_pump(&disk->queue, disk->conns, g_get_monotonic_time());

    if (wait > 0 && disk->throttle_source == 0)
        disk->throttle_source =
            g_timeout_add((guint)MIN(wait / 1000 + 1, THROTTLE_MAX), pump_again, disk);
    if (wants_connection(disk))
        start_connect(disk);
}

void fl_disk_rest(FlDisk *disk)
{
    disk->resting = true;
}

void fl_disk_read(FlDisk *disk, FlRead *read)
{
    const FlExportInfo *info = disk->peer.info;
    bool unaligned = fl_read_is_unaligned(read, info);

    disk->resting = false;
    read->link = (GList){.data = read};
    read->command = NULL;
    read->faults = 0;
    read->sent = false;
    read->since = g_get_monotonic_time();
    if (disk->failure == NULL && unaligned && fl_read_unaligned(read, info, fl_disk_read, disk))
        return;
    if (disk->failure != NULL || unaligned) {
        GQueue one = G_QUEUE_INIT;
        g_queue_push_tail_link(&one, &read->link);
        doom(disk, &one);
    } else {
        fl_read_queue_push(&disk->queue, read);
        fl_disk_pump(disk);
    }
}
