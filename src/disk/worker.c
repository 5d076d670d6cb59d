/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "worker.h"

#include "util/deadline.h"

typedef struct {
    const FlPeer *peer;
    FlDiskMaps *maps;           /* NULL if they are not loaded */
    FlFingerprint *fingerprint; /* a copy */
} Connect;

static void connect_free(gpointer data)
{
    Connect *connect = data;

    fl_disk_maps_unref(connect->maps);
    fl_fingerprint_free(connect->fingerprint);
    g_free(connect);
}

/* Whether what CONN leads to is the disk that we know. */
static bool is_same(FlConn *conn, const Connect *connect, const FlWait *wait, GError **error)
{
    return connect->maps == NULL || (fl_conn_verify(conn, connect->maps, wait, error) &&
                                     fl_fingerprint_check(connect->fingerprint, conn, wait, error));
}

static void close_unused(gpointer conn)
{
    fl_conn_close(conn, NULL);
}

/* Every connection is verified, not only those in place of a lost one: since the last was closed,
 * or even beside it, another server may have taken the place. */
static void connect_worker(GTask *task, gpointer object, gpointer data, GCancellable *cancel)
{
    const Connect *connect = data;
    const FlPeer *peer = connect->peer;
    FlWait wait = {.seconds = peer->options.timeout, .cancel = cancel};
    g_autofree const char **contexts =
        connect->maps != NULL ? fl_disk_maps_contexts(connect->maps) : NULL;
    FlConn *conn;
    GError *error = NULL;

    wait.deadline = fl_deadline_in(wait.seconds);
    conn = fl_source_open(peer->source, peer->info, contexts, &wait, &error);
    if (conn != NULL && is_same(conn, connect, &wait, &error)) {
        g_task_return_pointer(task, conn, close_unused);
        return;
    }
    fl_conn_close(conn, NULL);
    g_task_return_error(task, error);
}

void fl_worker_connect(const FlPeer *peer, FlDiskMaps *maps, const FlFingerprint *fingerprint,
                       GCancellable *cancel, GAsyncReadyCallback done, gpointer opaque)
{
    g_autoptr(GTask) task = g_task_new(NULL, cancel, done, opaque);
    Connect *connect = g_new0(Connect, 1);

    connect->peer = peer;
    connect->maps = maps != NULL ? fl_disk_maps_ref(maps) : NULL;
    connect->fingerprint = fl_fingerprint_copy(fingerprint);
    g_task_set_task_data(task, connect, connect_free);
    g_task_run_in_thread(task, connect_worker);
}

FlConn *fl_worker_connected(GAsyncResult *result, GError **error)
{
    return g_task_propagate_pointer(G_TASK(result), error);
}

/* Sleeps unless the disk is closed meanwhile. */
static void sleep_unless_cancelled(GCancellable *cancel, guint ms)
{
    GPollFD fd;

    if (g_cancellable_make_pollfd(cancel, &fd)) {
        g_poll(&fd, 1, (gint)ms);
        g_cancellable_release_fd(cancel);
    }
}

static void load_worker(GTask *task, gpointer object, gpointer data, GCancellable *cancel)
{
    const FlPeer *peer = data;
    const FlDiskOptions *options = &peer->options;
    gint64 began = g_get_monotonic_time();
    FlWait wait = {.seconds = options->timeout, .cancel = cancel};
    guint backoff = FL_BACKOFF_MIN;

    wait.deadline = fl_deadline_in((guint64)options->reconnect + options->timeout);
    for (;;) {
        GError *error = NULL;
        FlDiskMaps *maps = fl_source_load(peer->source, peer->info, &wait, &error);

        if (maps != NULL) {
            g_task_return_pointer(task, maps, (GDestroyNotify)fl_disk_maps_unref);
            return;
        }
        if (!g_error_matches(error, FL_ERROR, FL_ERROR_LOST) ||
            g_cancellable_is_cancelled(cancel) ||
            g_get_monotonic_time() - began >= fl_deadline_seconds(options->reconnect)) {
            g_task_return_error(task, error);
            return;
        }
        g_error_free(error);
        sleep_unless_cancelled(cancel, backoff);
        backoff = MIN(backoff * 2, FL_BACKOFF_MAX);
    }
}

void fl_worker_load(const FlPeer *peer, GCancellable *cancel, GAsyncReadyCallback done,
                    gpointer opaque)
{
    g_autoptr(GTask) task = g_task_new(NULL, cancel, done, opaque);

    g_task_set_task_data(task, (gpointer)peer, NULL);
    g_task_run_in_thread(task, load_worker);
}

FlDiskMaps *fl_worker_loaded(GAsyncResult *result, GError **error)
{
    return g_task_propagate_pointer(G_TASK(result), error);
}
