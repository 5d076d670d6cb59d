/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "worker.h"

#include "util/deadline.h"

/* Part of the timeout that connecting to a relay may take, as a divisor. */
#define RELAY_SHARE 4

typedef struct {
    const FlPeer *peer;
    GCancellable *cancel;
    gint64 *moved; /* of a load; else NULL */
    FlWorkerDone done;
    gpointer opaque;
    bool relay;                 /* of a connection: through the relay */
    FlDiskMaps *maps;           /* of a connection: NULL if not loaded; otherwise the result */
    FlFingerprint *fingerprint; /* of a connection: a copy */
    FlConn *conn;               /* the result of a connection */
    GError *error;
} Job;

static Job *job_new(const FlPeer *peer, GCancellable *cancel, FlWorkerDone done, gpointer opaque)
{
    Job *job = g_new0(Job, 1);

    job->peer = peer;
    job->cancel = g_object_ref(cancel);
    job->done = done;
    job->opaque = opaque;
    return job;
}

/* Runs in the loop: delivers the results, or drops them if the job was cancelled. */
static void end_job(Job *job, FlDiskMaps *maps)
{
    if (g_cancellable_is_cancelled(job->cancel)) {
        fl_conn_close(g_steal_pointer(&job->conn), NULL);
        maps = NULL;
        g_clear_error(&job->error);
        g_cancellable_set_error_if_cancelled(job->cancel, &job->error);
    }
    job->done(job->conn, maps, job->error, job->opaque);
    fl_disk_maps_unref(job->maps);
    fl_fingerprint_free(job->fingerprint);
    g_object_unref(job->cancel);
    g_clear_error(&job->error);
    g_free(job);
}

/* Whether CONN leads to the same disk as before. */
static bool is_same(FlConn *conn, const Job *job, const FlWait *wait, GError **error)
{
    return job->maps == NULL || (fl_conn_verify(conn, job->maps, wait, error) &&
                                 fl_fingerprint_check(job->fingerprint, conn, wait, error));
}

/* Verify every connection, not only replacements of lost ones: a different server may have replaced
 * the old one since the last connection was closed, or even while one is open. */
static void connect_now(void *opaque)
{
    Job *job = opaque;
    const FlPeer *peer = job->peer;
    unsigned timeout = peer->options.timeout;
    FlWait wait = {.seconds = job->relay ? MAX(timeout / RELAY_SHARE, 1) : timeout,
                   .cancel = job->cancel};
    g_autofree const char **contexts = job->maps != NULL ? fl_disk_maps_contexts(job->maps) : NULL;

    wait.deadline = fl_deadline_in(wait.seconds);
    job->conn = fl_source_open(job->relay ? peer->relay : peer->source, peer->info, contexts, &wait,
                               &job->error);
    if (job->conn != NULL && !is_same(job->conn, job, &wait, &job->error))
        fl_conn_close(g_steal_pointer(&job->conn), NULL);
    if (job->conn != NULL)
        job->conn->confirmed = job->relay;
}

static void connected(void *opaque)
{
    end_job(opaque, NULL);
}

void fl_worker_connect(const FlPeer *peer, bool relay, FlDiskMaps *maps,
                       const FlFingerprint *fingerprint, GCancellable *cancel, FlWorkerDone done,
                       gpointer opaque)
{
    Job *job = job_new(peer, cancel, done, opaque);

    job->relay = relay;
    job->maps = maps != NULL ? fl_disk_maps_ref(maps) : NULL;
    job->fingerprint = fl_fingerprint_copy(fingerprint);
    fl_workers_push(peer->options.workers, connect_now, connected, job);
}

/* Sleeps until MS have passed or the job is cancelled. Polls in slices, because waiting on a
 * GCancellable needs a file descriptor, and GLib aborts if it cannot get one. */
static void sleep_unless_cancelled(GCancellable *cancel, guint ms)
{
    enum { SLICE_MS = 50 };

    for (guint slept = 0; slept < ms && !g_cancellable_is_cancelled(cancel); slept += SLICE_MS)
        g_usleep((gulong)SLICE_MS * 1000);
}

static void load_now(void *opaque)
{
    Job *job = opaque;
    const FlPeer *peer = job->peer;
    const FlDiskOptions *options = &peer->options;
    gint64 began = g_get_monotonic_time();
    FlWait wait = {.seconds = options->timeout, .moved = job->moved, .cancel = job->cancel};
    guint backoff = FL_BACKOFF_MIN;

    wait.lap = (guint64)options->reconnect + options->timeout;
    wait.deadline = fl_deadline_in(wait.lap);
    for (;;) {
        job->maps = fl_source_load(peer->source, peer->info, &wait, &job->error);
        if (job->maps != NULL || !g_error_matches(job->error, FL_ERROR, FL_ERROR_LOST) ||
            g_cancellable_is_cancelled(job->cancel) ||
            g_get_monotonic_time() - began >= fl_deadline_seconds(options->reconnect))
            return;
        g_clear_error(&job->error);
        sleep_unless_cancelled(job->cancel, backoff);
        backoff = MIN(backoff * 2, FL_BACKOFF_MAX);
    }
}

static void loaded(void *opaque)
{
    Job *job = opaque;

    end_job(job, job->maps);
}

void fl_worker_load(const FlPeer *peer, GCancellable *cancel, gint64 *moved, FlWorkerDone done,
                    gpointer opaque)
{
    Job *job = job_new(peer, cancel, done, opaque);

    job->moved = moved;
    fl_workers_push(peer->options.workers, load_now, loaded, job);
}
