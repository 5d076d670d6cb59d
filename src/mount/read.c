/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/read.h"

#include <errno.h>
#include <string.h>

/* A reply with more parts than this is assembled in one buffer first: writev(2) has a limit. */
#define PARTS_MAX 512

typedef struct FileRead FileRead;

/* A part of the reply that comes from a read-ahead block. */
typedef struct {
    FlBlockWaiter waiter; /* first: the cache knows only this */
    FileRead *owner;
    FlBlock *block;
    uint64_t disk_offset;
    size_t length;
} Part;

/* A part of the reply that is read from the disk for this reply alone. */
typedef struct {
    FlRead read; /* first: the disk knows only this */
    FileRead *owner;
} Fetch;

struct FileRead {
    fuse_req_t req; /* NULL once it was interrupted */
    FlReadSource source;
    char *buf; /* as large as the reply; NULL if no part needs it */
    size_t size;
    unsigned waiting; /* pending parts, plus one while the read is being set up */
    errint_t result;
    GArray *iov;        /* the reply, of struct iovec */
    GArray *pieces;     /* the same, of FlPiece; NULL if nobody counts what is delivered */
    GPtrArray *parts;   /* of Part */
    GPtrArray *fetches; /* of Fetch */
};

/* Zeros for replies, so that holes need no allocation. As large as the largest request of the
 * kernel. */
static const char zeros[1 << 20];

static void read_free(FileRead *file)
{
    g_array_unref(file->iov);
    if (file->pieces != NULL)
        g_array_unref(file->pieces);
    g_ptr_array_unref(file->parts);
    g_ptr_array_unref(file->fetches);
    g_free(file->buf);
    g_free(file);
}

static void part_free(gpointer data)
{
    Part *part = data;

    fl_block_unref(part->block);
    g_free(part);
}

static void tell_delivered(const FileRead *file)
{
    const FlReadSource *source = &file->source;

    for (guint i = 0; file->pieces != NULL && i < file->pieces->len; i++)
        source->delivered(source->opaque, &g_array_index(file->pieces, FlPiece, i));
}

/* Sends the reply. False if the kernel did not accept it: it rejects replies whose reader was
 * killed. */
static bool reply(FileRead *file)
{
    const struct iovec *iov = (const struct iovec *)(void *)file->iov->data;
    int result;

    if (file->iov->len <= PARTS_MAX) {
        result = fuse_reply_iov(file->req, iov, (int)file->iov->len);
    } else {
        g_autofree char *whole = g_try_malloc(file->size);
        char *out = whole;
        if (whole == NULL) {
            fuse_reply_err(file->req, ENOMEM);
            return false;
        }
        for (guint i = 0; i < file->iov->len; i++)
            out = (char *)mempcpy(out, iov[i].iov_base, iov[i].iov_len);
        result = fuse_reply_buf(file->req, whole, file->size);
    }
    return result == 0;
}

/* Called when each part arrives, and once after the last part was requested. */
static void part_arrived(FileRead *file, errint_t result)
{
    if (file->result == 0)
        file->result = result;
    if (--file->waiting > 0)
        return;

    if (file->req == NULL) {
        /* The request was interrupted. */
    } else if (file->result < 0) {
        fuse_reply_err(file->req, -file->result);
    } else if (reply(file)) {
        tell_delivered(file);
    }
    read_free(file);
}

static void block_arrived(FlBlockWaiter *waiter, FlBlock *block)
{
    part_arrived(((Part *)waiter)->owner, block->result);
}

static void fetch_arrived(FlRead *read, errint_t result)
{
    part_arrived(((Fetch *)read)->owner, result);
}

/* Ensures that there is a buffer; if out of memory, only this reply fails. */
static bool has_buffer(FileRead *file)
{
    if (file->buf == NULL)
        file->buf = g_try_malloc(file->size);
    if (file->buf == NULL)
        file->result = -ENOMEM;
    return file->buf != NULL;
}

static void add_iov(FileRead *file, const void *data, size_t length)
{
    struct iovec iov = {.iov_base = (void *)data, .iov_len = length};

    g_array_append_val(file->iov, iov);
}

static void add_zeros(FileRead *file, size_t length)
{
    for (size_t n; length > 0; length -= n) {
        n = MIN(length, sizeof zeros);
        add_iov(file, zeros, n);
    }
}

static void add_block(FileRead *file, FlBlock *block, uint64_t disk_offset, size_t length)
{
    Part *part = g_new0(Part, 1);

    fl_block_take(block, length);
    part->owner = file;
    part->block = block;
    part->disk_offset = disk_offset;
    part->length = length;
    add_iov(file, fl_block_data(block) + (disk_offset - block->start), length);
    g_ptr_array_add(file->parts, part);
    if (block->under_way) {
        part->waiter.link.data = &part->waiter;
        part->waiter.done = block_arrived;
        file->waiting++;
        g_queue_push_tail_link(&block->waiters, &part->waiter.link);
    }
}

static void add_fetch(FileRead *file, size_t at, uint64_t disk_offset, size_t length)
{
    Fetch *fetch;

    if (!has_buffer(file))
        return;
    fetch = g_new0(Fetch, 1);
    fetch->owner = file;
    fetch->read.buf = file->buf + at;
    fetch->read.length = length;
    fetch->read.offset = disk_offset;
    fetch->read.done = fetch_arrived;
    add_iov(file, fetch->read.buf, length);
    g_ptr_array_add(file->fetches, fetch);
    file->waiting++;
    fl_disk_read(file->source.disk, &fetch->read);
}

/* Adds a range of the disk: from blocks where they exist, by separate reads elsewhere. */
static void add_disk(FileRead *file, size_t at, uint64_t disk_offset, size_t length)
{
    while (length > 0) {
        uint64_t next;
        FlBlock *block = fl_blocks_find(file->source.blocks, disk_offset, &next);
        uint64_t end = block != NULL ? block->end : next;
        size_t n = (size_t)MIN(length, end - disk_offset);

        if (block != NULL)
            add_block(file, block, disk_offset, n);
        else
            add_fetch(file, at, disk_offset, n);
        at += n;
        disk_offset += n;
        length -= n;
    }
}

static void interrupted(fuse_req_t req, void *opaque)
{
    FileRead *file = opaque;

    file->req = NULL;
    fuse_reply_err(req, EINTR);
}

static FileRead *read_new(const FlReadSource *source, fuse_req_t req, size_t size)
{
    FileRead *file = g_new0(FileRead, 1);

    file->req = req;
    file->source = *source;
    file->size = size;
    file->waiting = 1;
    file->iov = g_array_new(FALSE, FALSE, sizeof(struct iovec));
    if (source->delivered != NULL)
        file->pieces = g_array_new(FALSE, FALSE, sizeof(FlPiece));
    file->parts = g_ptr_array_new_with_free_func(part_free);
    file->fetches = g_ptr_array_new_with_free_func(g_free);
    return file;
}

/* Adds the first N bytes of PIECE to the reply, at AT in it. */
static void add_piece(FileRead *file, size_t at, const FlPiece *piece, size_t n)
{
    switch (piece->kind) {
    case FL_PIECE_DISK:
        add_disk(file, at, piece->disk_offset, n);
        break;
    case FL_PIECE_ZERO:
    case FL_PIECE_HOLE:
        add_zeros(file, n);
        break;
    case FL_PIECE_MADE:
        if (!has_buffer(file))
            break;
        fl_view_make(file->source.view, file->buf + at, n, piece->start);
        add_iov(file, file->buf + at, n);
        break;
    }
}

static void add_pieces(FileRead *file, uint64_t offset)
{
    const FlReadSource *source = &file->source;
    bool failed = source->disk != NULL && fl_disk_failure(source->disk) != NULL;
    size_t at = 0;

    while (at < file->size) {
        FlPiece piece = fl_view_piece(source->view, offset + at);
        size_t n = (size_t)MIN(piece.end - piece.start, file->size - at);

        if (failed && piece.kind != FL_PIECE_MADE) {
            file->result = -EIO;
            break;
        }
        add_piece(file, at, &piece, n);
        at += n;
        piece.end = MIN(piece.end, offset + file->size);
        if (file->pieces != NULL)
            g_array_append_val(file->pieces, piece);
    }
}

void fl_read_reply(const FlReadSource *source, fuse_req_t req, size_t size, uint64_t offset)
{
    const FlView *view = source->view;
    FileRead *file;

    if (offset >= view->size || size == 0) {
        fuse_reply_buf(req, NULL, 0);
        return;
    }
    /* fuse_req_interrupt_func() would call the function at once, and free the request while libfuse
     * still uses it. */
    if (fuse_req_interrupted(req)) {
        fuse_reply_err(req, EINTR);
        return;
    }
    file = read_new(source, req, (size_t)MIN(size, view->size - offset));
    if (source->disk != NULL && source->readahead > 0)
        fl_streams_note(source->streams, source->ahead != NULL ? source->ahead : view,
                        source->blocks, offset, file->size, source->readahead,
                        source->ahead_end != 0 ? source->ahead_end : view->size);
    add_pieces(file, offset);
    if (file->waiting > 1)
        fuse_req_interrupt_func(req, interrupted, file);
    part_arrived(file, 0);
}
