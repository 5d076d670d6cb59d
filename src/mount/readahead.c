/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/readahead.h"

#define STREAMS    8
#define WINDOW_MIN (512u << 10)
/* Request sizes: large enough for low overhead, small enough to occupy all connections. */
#define REQUEST_SMALL (512u << 10)
#define REQUEST_LARGE FL_BLOCK_MAX
/* Target number of bytes in queues, on the server or here. More is not faster, but delays other
 * requests and drops out of the CPU cache. */
#define QUEUED_MAX (1u << 20)
/* Tolerated distance of a read from its expected offset: the kernel reads ahead too, in several
 * requests that may arrive out of order. */
#define SLACK (1u << 20)
/* Maximum number of pieces skipped without a request, to bound the time in one iteration of the
 * loop. */
#define STEPS_MAX 4096

typedef struct {
    uint64_t next;        /* expected offset of the next read */
    uint64_t ahead;       /* end of the data requested so far; at least NEXT */
    uint64_t ahead_bytes; /* data in [next, ahead) */
    uint64_t window;      /* target for AHEAD_BYTES */
    uint64_t skipped;     /* bytes that the reader skipped and has not made up for */
    unsigned hits;        /* reads that came as expected; 0: unused, or only a guess */
    uint64_t used;        /* value of turn at the last read */
} Stream;

struct FlStreams {
    uint64_t turn;
    Stream streams[STREAMS];
};

FlStreams *fl_streams_new(void)
{
    return g_new0(FlStreams, 1);
}

void fl_streams_free(FlStreams *streams)
{
    g_free(streams);
}

/* The next offset at or after FROM whose byte is on the disk, but at most END. */
static uint64_t skip_to_disk(const FlView *view, uint64_t from, uint64_t end)
{
    for (unsigned i = 0; from < end && i < STEPS_MAX; i++) {
        FlPiece piece = fl_view_piece(view, from);
        if (piece.kind == FL_PIECE_DISK)
            break;
        from = piece.end;
    }
    return MIN(from, end);
}

/* Random reads match no stream: a guess is confirmed only by a read of the very next byte. */
static bool matches(const Stream *stream, const FlView *view, uint64_t offset)
{
    if (stream->used == 0)
        return false;
    if (stream->hits > 0 && offset + SLACK >= stream->next && offset <= stream->ahead)
        return true;
    /* A reader that seeks over a hole is still sequential. */
    return offset >= stream->next && skip_to_disk(view, stream->next, offset) == offset;
}

static Stream *find_stream(FlStreams *streams, const FlView *view, uint64_t offset)
{
    Stream *oldest = &streams->streams[0];

    for (unsigned i = 0; i < STREAMS; i++) {
        Stream *stream = &streams->streams[i];
        if (matches(stream, view, offset))
            return stream;
        /* Replace guesses first, or random reads would evict real streams. */
        if ((stream->hits == 0) > (oldest->hits == 0) ||
            ((stream->hits == 0) == (oldest->hits == 0) && stream->used < oldest->used))
            oldest = stream;
    }
    *oldest = (Stream){.next = offset, .ahead = offset};
    return oldest;
}

/*
 * Tracks what the reader skips. Requests of one sequential reader may arrive out of order, but all
 * of them arrive; random reads that happen to fall into the window leave out most of it. False if
 * this is not a stream.
 */
static bool is_in_order(Stream *stream, const FlView *view, uint64_t offset, uint64_t length)
{
    if (offset > stream->next && skip_to_disk(view, stream->next, offset) != offset)
        stream->skipped += offset - stream->next;
    else
        stream->skipped -= MIN(stream->skipped, length);
    return stream->skipped <= SLACK;
}

/* Moves the reader's position to TO. */
static void advance(Stream *stream, const FlView *view, uint64_t to)
{
    uint64_t at = stream->next;

    if (to <= at)
        return;
    stream->next = to;
    if (to >= stream->ahead) {
        stream->ahead = to;
        stream->ahead_bytes = 0;
        return;
    }
    while (at < to) {
        FlPiece piece = fl_view_piece(view, at);
        uint64_t end = MIN(piece.end, to);
        if (piece.kind == FL_PIECE_DISK)
            stream->ahead_bytes -= end - at;
        at = end;
    }
}

/* Requests the missing parts of [START, END) of the disk; false if the cache has no room. */
static bool fetch(FlBlocks *blocks, uint64_t start, uint64_t end)
{
    while (start < end) {
        uint64_t next;
        FlBlock *block = fl_blocks_find(blocks, start, &next);

        if (block != NULL) {
            start = block->end;
            continue;
        }
        if (!fl_blocks_fetch(blocks, start, MIN(next, end)))
            return false;
        start = MIN(next, end);
    }
    return true;
}

/*
 * Adapts the window. A reader that waits needs a larger window, unless the wait is due to the many
 * requests already queued. This is the approach of TCP Vegas (Brakmo and Peterson 1995).
 */
static void adapt_window(Stream *stream, const FlBlocks *blocks, bool waits, uint64_t limit)
{
    double queued = (double)stream->window * (1 - 1 / fl_blocks_slowdown(blocks));

    if (stream->window == 0)
        stream->window = WINDOW_MIN;
    else if (waits && queued < QUEUED_MAX)
        stream->window += stream->window / 2;
    else if (queued > 2 * QUEUED_MAX)
        stream->window -= stream->window / 16;
    stream->window = MIN(stream->window, limit);
}

static void extend(Stream *stream, const FlView *view, FlBlocks *blocks, uint64_t end)
{
    uint64_t request = stream->window / 16 < REQUEST_LARGE ? REQUEST_SMALL : REQUEST_LARGE;

    /* Issue whole requests only, or a full window would be refilled in tiny ones. */
    if (stream->ahead_bytes + MIN(request, stream->window) > stream->window)
        return;
    for (unsigned i = 0; i < STEPS_MAX && stream->ahead < end; i++) {
        FlPiece piece = fl_view_piece(view, stream->ahead);
        uint64_t length = MIN(piece.end, end) - piece.start;

        if (piece.kind == FL_PIECE_DISK) {
            if (stream->ahead_bytes >= stream->window)
                return;
            length = MIN(length, request);
            if (!fetch(blocks, piece.disk_offset, piece.disk_offset + length))
                return;
            stream->ahead_bytes += length;
        }
        stream->ahead += length;
    }
}

/* Whether the byte at OFFSET is available without waiting. */
static bool is_here(const FlView *view, FlBlocks *blocks, uint64_t offset)
{
    FlPiece piece = fl_view_piece(view, offset);
    uint64_t next;
    FlBlock *block;

    if (piece.kind != FL_PIECE_DISK)
        return true;
    block = fl_blocks_find(blocks, piece.disk_offset, &next);
    return block != NULL && !block->under_way;
}

void fl_streams_note(FlStreams *streams, const FlView *view, FlBlocks *blocks, uint64_t offset,
                     uint64_t length, uint64_t limit, uint64_t end)
{
    Stream *stream = find_stream(streams, view, offset);
    uint64_t used = stream->used;

    if (used != 0 && !is_in_order(stream, view, offset, length)) {
        *stream = (Stream){.next = offset, .ahead = offset};
        used = 0;
    }
    stream->used = ++streams->turn;
    if (used != 0) {
        stream->hits++;
        adapt_window(stream, blocks, !is_here(view, blocks, offset), limit);
    }
    advance(stream, view, MIN(offset + length, view->size));
    if (stream->hits > 0)
        extend(stream, view, blocks, MIN(end, view->size));
}
