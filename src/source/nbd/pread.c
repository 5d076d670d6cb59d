/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pread.h"

#include "reply.h"
#include "wait.h"

#include <errno.h>

struct FlPread {
    gatomicrefcount refs; /* the caller's, and libnbd's for each callback */
    FlPreadDone done;     /* NULL once called or abandoned */
    void *opaque;
    uint64_t length, offset;
    FlReply reply;
    bool sending; /* inside nbd_aio_pread_structured() */
    char bytes[]; /* empty if the caller has a buffer */
};

static void pread_unref(void *opaque)
{
    FlPread *pread = opaque;

    if (!g_atomic_ref_count_dec(&pread->refs))
        return;
    fl_reply_clear(&pread->reply);
    g_free(pread);
}

static void tell(FlPread *pread, int error)
{
    FlPreadDone done = pread->done;

    pread->done = NULL;
    if (done != NULL)
        done(pread->opaque, error);
}

static int chunk_arrived(void *opaque, const void *buf, size_t length, uint64_t offset,
                         unsigned status, int *error)
{
    if (status == LIBNBD_READ_DATA || status == LIBNBD_READ_HOLE)
        fl_reply_add(&((FlPread *)opaque)->reply, offset, length);
    return 0;
}

static int command_done(void *opaque, int *error)
{
    FlPread *pread = opaque;
    /* EPROTO comes from libnbd itself: NBD has no number for it. */
    bool wrong = *error == EPROTO ||
                 (*error == 0 && !fl_reply_is(&pread->reply, pread->offset, pread->length));
    /* If a command fails while it is being sent, libnbd (1.14) still reads its return value, so do
     * not retire it. The connection is dead then and frees the command. */
    bool retire = !pread->sending;

    tell(pread, wrong ? FL_READ_WRONG : *error);
    return retire;
}

FlPread *fl_pread_start(struct nbd_handle *nbd, void *buf, uint64_t length, uint64_t offset,
                        FlPreadDone done, void *opaque)
{
    FlPread *pread = g_malloc0(sizeof *pread + (buf == NULL ? length : 0));
    nbd_chunk_callback chunk = {.callback = chunk_arrived, .user_data = pread, .free = pread_unref};
    nbd_completion_callback completion = {
        .callback = command_done, .user_data = pread, .free = pread_unref};

    g_atomic_ref_count_init(&pread->refs);
    g_atomic_ref_count_inc(&pread->refs);
    g_atomic_ref_count_inc(&pread->refs);
    pread->done = done;
    pread->opaque = opaque;
    pread->length = length;
    pread->offset = offset;
    pread->sending = true;
    if (nbd_aio_pread_structured(nbd, buf != NULL ? buf : pread->bytes, length, offset, chunk,
                                 completion, 0) < 0)
        tell(pread, nbd_get_errno() != 0 ? nbd_get_errno() : EIO);
    pread->sending = false;
    return pread;
}

void fl_pread_abandon(FlPread *pread)
{
    if (pread == NULL)
        return;
    pread->done = NULL;
    pread_unref(pread);
}

/* A set of reads to wait for. */
typedef struct {
    unsigned waiting;
    int error;
} Reads;

static void count_down(void *opaque, int error)
{
    Reads *reads = opaque;

    reads->waiting--;
    if (error != 0)
        reads->error = error;
}

static bool all_done(struct nbd_handle *nbd, void *opaque)
{
    return ((const Reads *)opaque)->waiting == 0;
}

bool fl_pread_spans(struct nbd_handle *nbd, const FlSpan *spans, unsigned n, void **bytes,
                    const FlWait *wait, GError **error)
{
    g_autofree FlPread **preads = g_new0(FlPread *, n);
    Reads reads = {0};
    bool ok;

    for (unsigned i = 0; i < n; i++) {
        uint64_t length = spans[i].end - spans[i].start;

        reads.waiting += length > 0;
        if (length > 0)
            preads[i] = fl_pread_start(nbd, NULL, length, spans[i].start, count_down, &reads);
    }
    ok = fl_nbd_wait(nbd, all_done, &reads, wait, error);
    if (ok && reads.error == FL_READ_WRONG)
        ok = fl_fail_lost(error, "a reply did not contain exactly the requested bytes");
    else if (ok && reads.error != 0)
        ok = fl_fail_lost(error, "it cannot be read: %s", g_strerror(reads.error));
    for (unsigned i = 0; i < n; i++) {
        if (ok)
            bytes[i] = preads[i] != NULL ? g_memdup2(preads[i]->bytes, preads[i]->length) : NULL;
        fl_pread_abandon(preads[i]);
    }
    return ok;
}
