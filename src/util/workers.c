/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/workers.h"

#include "util/interrupt.h"

/* More threads would only send more concurrent requests to the servers. */
#define THREADS_MAX 32
/* Idle threads to keep. */
#define IDLE_MAX 2

struct FlWorkers {
    gatomicrefcount refs;   /* of owners and threads */
    gatomicrefcount owners; /* the last one ends the threads */
    GMutex lock;            /* protects all that follows */
    GCond more;
    GQueue waiting; /* of Job, by their links */
    unsigned threads, idle;
    bool quit;
};

typedef struct {
    GList link;
    void (*run)(void *job);
    void (*done)(void *job);
    void *job;
} Job;

static void release(FlWorkers *workers)
{
    if (!g_atomic_ref_count_dec(&workers->refs))
        return;
    g_mutex_clear(&workers->lock);
    g_cond_clear(&workers->more);
    g_free(workers);
}

static gboolean tell(gpointer data)
{
    Job *job = data;

    job->done(job->job);
    return G_SOURCE_REMOVE;
}

/* Waits for the next job. NULL: this thread is no longer needed. */
static Job *next_job(FlWorkers *workers)
{
    GList *link;

    g_mutex_lock(&workers->lock);
    workers->idle++;
    while ((link = g_queue_pop_head_link(&workers->waiting)) == NULL && !workers->quit &&
           workers->idle <= IDLE_MAX)
        g_cond_wait(&workers->more, &workers->lock);
    workers->idle--;
    workers->threads -= link == NULL;
    g_mutex_unlock(&workers->lock);
    return link != NULL ? link->data : NULL;
}

static gpointer work(gpointer data)
{
    FlWorkers *workers = data;
    Job *job;

    while ((job = next_job(workers)) != NULL) {
        job->run(job->job);
        g_idle_add_full(G_PRIORITY_DEFAULT, tell, job, g_free);
    }
    release(workers);
    return NULL;
}

static bool start_thread(FlWorkers *workers, GError **error)
{
    GThread *thread;

    g_mutex_lock(&workers->lock);
    workers->threads++;
    g_mutex_unlock(&workers->lock);
    g_atomic_ref_count_inc(&workers->refs);
    thread = fl_thread_start("worker", work, workers, error);
    if (thread != NULL) {
        g_thread_unref(thread);
        return true;
    }
    g_mutex_lock(&workers->lock);
    workers->threads--;
    g_mutex_unlock(&workers->lock);
    release(workers);
    return false;
}

FlWorkers *fl_workers_new(GError **error)
{
    FlWorkers *workers = g_new0(FlWorkers, 1);
    g_autoptr(GError) failure = NULL;

    g_atomic_ref_count_init(&workers->refs);
    g_atomic_ref_count_init(&workers->owners);
    g_mutex_init(&workers->lock);
    g_cond_init(&workers->more);
    if (start_thread(workers, &failure))
        return workers;
    fl_workers_unref(workers);
    fl_fail(error, "cannot start a thread: %s" FL_LIMITS, failure->message);
    return NULL;
}

FlWorkers *fl_workers_ref(FlWorkers *workers)
{
    g_atomic_ref_count_inc(&workers->refs);
    g_atomic_ref_count_inc(&workers->owners);
    return workers;
}

void fl_workers_unref(FlWorkers *workers)
{
    if (workers == NULL)
        return;
    if (g_atomic_ref_count_dec(&workers->owners)) {
        g_mutex_lock(&workers->lock);
        workers->quit = true;
        g_cond_broadcast(&workers->more);
        g_mutex_unlock(&workers->lock);
    }
    release(workers);
}

void fl_workers_push(FlWorkers *workers, void (*run)(void *job), void (*done)(void *job), void *job)
{
    Job *next = g_new(Job, 1);
    g_autoptr(GError) error = NULL;
    bool all_busy;

    *next = (Job){.link.data = next, .run = run, .done = done, .job = job};
    g_mutex_lock(&workers->lock);
    g_queue_push_tail_link(&workers->waiting, &next->link);
    g_cond_signal(&workers->more);
    all_busy = workers->waiting.length > workers->idle && workers->threads < THREADS_MAX;
    g_mutex_unlock(&workers->lock);
    if (all_busy && !start_thread(workers, &error))
        g_debug("cannot start another thread: %s", error->message);
}
