/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/readahead.h"

#define STREAMS    8
#define WINDOW_MIN (512u << 10)
/* A request: large enough to cost little, small enough for all connections to have some. */
#define REQUEST_SMALL (512u << 10)
#define REQUEST_LARGE FL_BLOCK_MAX
/* So much of a window may lie in queues, on the server or here; more does not make it faster, but
 * others wait behind it and it drops out of the processor's cache. */
#define QUEUED_MAX (1u << 20)
/* How far off the expected place a read may be: the kernel reads ahead as well, in several requests
 * that need not come in order. */
#define SLACK (1u << 20)
/* Pieces passed over without a request, before the loop has to see to others. */
#define STEPS_MAX 4096

typedef struct {
    uint64_t next;        /* where the reader is expected */
    uint64_t ahead;       /* up to where data was asked for; at least NEXT */
    uint64_t ahead_bytes; /* data in [next, ahead) */
    uint64_t window;      /* how many of them there should be */
    uint64_t skipped;     /* bytes that were passed over and not made up for */
    unsigned hits;        /* reads that came as expected; 0: not in use, or only a guess */
    uint64_t used;        /* turn of the last read */
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

/* The next offset at or after FROM whose bytes are on the disk, but not past END. */
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

/* Random reads find no stream: a guess is only confirmed by the very next byte. */
static bool matches(const Stream *stream, const FlView *view, uint64_t offset)
{
    if (stream->used == 0)
        return false;
    if (stream->hits > 0 && offset + SLACK >= stream->next && offset <= stream->ahead)
        return true;
    /* A reader that seeks over a hole is sequential all the same. */
    return offset >= stream->next && skip_to_disk(view, stream->next, offset) == offset;
}

static Stream *find_stream(FlStreams *streams, const FlView *view, uint64_t offset)
{
    Stream *oldest = &streams->streams[0];

    for (unsigned i = 0; i < STREAMS; i++) {
        Stream *stream = &streams->streams[i];
        if (matches(stream, view, offset))
            return stream;
        /* Guesses go first, or random reads would drive out real streams. */
        if ((stream->hits == 0) > (oldest->hits == 0) ||
            ((stream->hits == 0) == (oldest->hits == 0) && stream->used < oldest->used))
            oldest = stream;
    }
    *oldest = (Stream){.next = offset, .ahead = offset};
    return oldest;
}

/*
 * Keeps account of what the reader passes over. Several requests of one reader may come in any
 * order, but all of them do come; random reads that happen to fall into the window leave most of it
 * out. False if this is no stream.
 */
static bool is_in_order(Stream *stream, const FlView *view, uint64_t offset, uint64_t length)
{
    if (offset > stream->next && skip_to_disk(view, stream->next, offset) != offset)
        stream->skipped += offset - stream->next;
    else
        stream->skipped -= MIN(stream->skipped, length);
    return stream->skipped <= SLACK;
}

/* The reader is now at TO. */
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

/* Asks for what is missing of [start, end) of the disk; false if there is no room. */
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
 * The reader waits: what is on its way is too little, unless it takes long because there is so much
 * of it. This is what TCP Vegas does (Brakmo and Peterson 1995).
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

    /* In whole requests, or a window that is full would be topped up by crumbs. */
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

/* Whether the bytes at OFFSET are here. */
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
