/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a file may block for as long as the file system likes: it may be another FUSE mount. So
 * the loop passes each read to a thread, and may close the connection while the thread is blocked;
 * the thread then finds no waiter and exits. For the same reason the thread reads into its own
 * buffer.
 */
#include "conn.h"

#include "util/interrupt.h"

#include <errno.h>
#include <string.h>

#define BOUNCE (256u << 10)

/* A read that was passed to the thread. */
typedef struct {
    GList link;
    FlRead *read; /* owned by the loop */
    void *buf;    /* READ's buffer; NULL once nobody waits */
    size_t length;
    uint64_t offset;
    enum { WAITING, RUNNING, DONE, TOLD } state;
    errint_t result;
} Job;

/* Shared by the loop and the thread; the last to release it frees it. */
typedef struct {
    gatomicrefcount refs;
    FlPieceFolder *folder;
    GSource *source; /* made ready by the thread; NULL until it runs */
    GMutex lock;     /* protects all fields below, and the jobs */
    GCond more;
    GQueue waiting, done; /* of Job, linked through Job.link */
    bool quit;
    char *bounce; /* BOUNCE bytes, used by the thread; NULL until it runs */
} Shared;

typedef struct {
    FlConn conn; /* first */
    Shared *shared;
    bool failed; /* the thread could not be started */
} PiecesConn;

typedef struct {
    GSource source;
    PiecesConn *conn;
} ConnSource;

static PiecesConn *pieces_conn(FlConn *conn)
{
    return (PiecesConn *)conn;
}

static Shared *shared_new(FlPieceFolder *folder)
{
    Shared *shared = g_new0(Shared, 1);

    g_atomic_ref_count_init(&shared->refs);
    shared->folder = fl_piece_folder_ref(folder);
    g_mutex_init(&shared->lock);
    g_cond_init(&shared->more);
    return shared;
}

static void shared_unref(Shared *shared)
{
    if (!g_atomic_ref_count_dec(&shared->refs))
        return;
    if (shared->source != NULL)
        g_source_unref(shared->source);
    fl_piece_folder_unref(shared->folder);
    g_free(shared->bounce);
    g_cond_clear(&shared->more);
    g_mutex_clear(&shared->lock);
    g_free(shared);
}

/* The thread */

/* Waits for the next job; NULL to exit. */
static Job *next_job(Shared *shared)
{
    GList *link = NULL;

    g_mutex_lock(&shared->lock);
    while (!shared->quit && (link = g_queue_pop_head_link(&shared->waiting)) == NULL)
        g_cond_wait(&shared->more, &shared->lock);
    if (link != NULL)
        ((Job *)link->data)->state = RUNNING;
    g_mutex_unlock(&shared->lock);
    return link != NULL ? link->data : NULL;
}

/* Copies what was read to its destination if somebody still waits. */
static bool hand_over(Shared *shared, const Job *job, const void *bytes, size_t length, size_t at)
{
    bool wanted;

    g_mutex_lock(&shared->lock);
    wanted = job->buf != NULL;
    if (wanted)
        memcpy((char *)job->buf + at, bytes, length);
    g_mutex_unlock(&shared->lock);
    return wanted;
}

static void end_job(Shared *shared, Job *job, errint_t result)
{
    g_mutex_lock(&shared->lock);
    job->result = result;
    job->state = DONE;
    if (job->buf != NULL) {
        g_queue_push_tail_link(&shared->done, &job->link);
        g_source_set_ready_time(shared->source, 0);
        job = NULL;
    }
    g_mutex_unlock(&shared->lock);
    g_free(job);
}

static gpointer run(gpointer data)
{
    Shared *shared = data;
    FlPieceReader reader;
    Job *job;

    fl_piece_reader_init(&reader, shared->folder);
    while ((job = next_job(shared)) != NULL) {
        errint_t r = 0;

        for (size_t at = 0; at < job->length && r == 0; at += BOUNCE) {
            size_t part = MIN(job->length - at, BOUNCE);

            r = fl_piece_reader_read(&reader, shared->bounce, part, job->offset + at);
            if (r == 0 && !hand_over(shared, job, shared->bounce, part, at))
                r = -ECANCELED;
        }
        end_job(shared, job, r);
    }
    fl_piece_reader_clear(&reader);
    shared_unref(shared);
    return NULL;
}

/* The loop */

static gboolean dispatch(GSource *source, GSourceFunc callback, gpointer data)
{
    PiecesConn *pieces = ((ConnSource *)source)->conn;
    GQueue done;

    g_source_set_ready_time(source, -1);
    g_mutex_lock(&pieces->shared->lock);
    done = pieces->shared->done;
    g_queue_init(&pieces->shared->done);
    g_mutex_unlock(&pieces->shared->lock);
    if (done.length > 0)
        fl_conn_note_sign(&pieces->conn);
    for (GList *l; (l = g_queue_pop_head_link(&done)) != NULL;) {
        Job *job = l->data;

        job->state = TOLD;
        fl_conn_answer(&pieces->conn, job->read, -job->result);
    }
    fl_conn_tell(&pieces->conn);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {.dispatch = dispatch};

static bool conn_verify(FlConn *conn, const FlDiskMaps *maps, const FlWait *wait, GError **error)
{
    return fl_piece_folder_check(pieces_conn(conn)->shared->folder, error);
}

static bool conn_peek(FlConn *conn, const FlSpan *spans, unsigned n, void **bytes,
                      const FlWait *wait, GError **error)
{
    FlPieceFolder *folder = pieces_conn(conn)->shared->folder;
    FlPieceReader reader;
    errint_t r = 0;

    fl_piece_reader_init(&reader, folder);
    for (unsigned i = 0; i < n; i++)
        bytes[i] = NULL;
    for (unsigned i = 0; i < n && r == 0; i++) {
        size_t length = (size_t)(spans[i].end - spans[i].start);

        if (length == 0)
            continue;
        bytes[i] = g_malloc(length);
        r = fl_piece_reader_read(&reader, bytes[i], length, spans[i].start);
    }
    fl_piece_reader_clear(&reader);
    if (r == 0)
        return true;
    for (unsigned i = 0; i < n; i++)
        g_clear_pointer(&bytes[i], g_free);
    return fl_piece_folder_check(folder, error) && fl_fail_lost(error, "%s", g_strerror(-r));
}

static void conn_start(FlConn *conn)
{
    PiecesConn *pieces = pieces_conn(conn);
    Shared *shared = pieces->shared;
    g_autoptr(GError) error = NULL;
    GThread *thread = NULL;

    shared->source = g_source_new(&source_funcs, sizeof(ConnSource));
    ((ConnSource *)shared->source)->conn = pieces;
    g_source_attach(shared->source, NULL);
    g_atomic_ref_count_inc(&shared->refs);
    shared->bounce = g_try_malloc(BOUNCE);
    if (shared->bounce != NULL)
        thread = fl_thread_start("fleecefs-pieces", run, shared, &error);
    if (thread != NULL) {
        g_thread_unref(thread);
        return;
    }
    shared_unref(shared);
    pieces->failed = true;
    g_source_set_ready_time(shared->source, 0);
}

static void conn_read(FlConn *conn, FlRead *read)
{
    Shared *shared = pieces_conn(conn)->shared;
    Job *job = g_new0(Job, 1);

    job->link.data = job;
    job->read = read;
    job->buf = read->buf;
    job->length = read->length;
    job->offset = read->offset;
    read->command = job;
    g_mutex_lock(&shared->lock);
    g_queue_push_tail_link(&shared->waiting, &job->link);
    g_cond_signal(&shared->more);
    g_mutex_unlock(&shared->lock);
}

/* No answer loses the connection: a failed read is an error of that read. */
static bool conn_settle(FlConn *conn, FlRead *read)
{
    Shared *shared = pieces_conn(conn)->shared;
    Job *job = g_steal_pointer(&read->command);

    g_mutex_lock(&shared->lock);
    job->buf = NULL;
    if (job->state == WAITING)
        g_queue_unlink(&shared->waiting, &job->link);
    else if (job->state == RUNNING)
        job = NULL; /* the thread frees it */
    else if (job->state == DONE)
        g_queue_unlink(&shared->done, &job->link);
    g_mutex_unlock(&shared->lock);
    g_free(job);
    return true;
}

static const char *conn_fault(const FlConn *conn)
{
    const PiecesConn *pieces = (const PiecesConn *)conn;

    if (pieces->failed)
        return "out of memory or threads to read its pieces";
    return fl_piece_folder_check(pieces->shared->folder, NULL) ? NULL : "a piece has changed";
}

static void conn_wake(FlConn *conn)
{
    g_source_set_ready_time(pieces_conn(conn)->shared->source, 0);
}

static void conn_close(FlConn *conn)
{
    Shared *shared = pieces_conn(conn)->shared;

    if (shared->source != NULL)
        g_source_destroy(shared->source);
    g_mutex_lock(&shared->lock);
    shared->quit = true;
    g_cond_signal(&shared->more);
    g_mutex_unlock(&shared->lock);
    shared_unref(shared);
}

static const FlConnOps conn_ops = {
    .verify = conn_verify,
    .peek = conn_peek,
    .start = conn_start,
    .read = conn_read,
    .settle = conn_settle,
    .fault = conn_fault,
    .wake = conn_wake,
    .close = conn_close,
};

FlConn *fl_pieces_conn_new(FlPieceFolder *folder)
{
    FlConn *conn = fl_conn_alloc(sizeof(PiecesConn), &conn_ops);

    pieces_conn(conn)->shared = shared_new(folder);
    return conn;
}
