/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "reply.h"

typedef struct {
    uint64_t start, end;
} Piece;

void fl_reply_clear(FlReply *reply)
{
    g_clear_pointer(&reply->pieces, g_array_unref);
    *reply = (FlReply){0};
}

static Piece *piece(const FlReply *reply, guint i)
{
    return &g_array_index(reply->pieces, Piece, i);
}

/* Returns the index of the first piece that ends after START. */
static guint find(const FlReply *reply, uint64_t start)
{
    guint low = 0, high = reply->pieces->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        if (piece(reply, middle)->end > start)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void add_piece(FlReply *reply, uint64_t start, uint64_t end)
{
    guint at = find(reply, start), n = reply->pieces->len;
    bool joins_before = at > 0 && piece(reply, at - 1)->end == start;
    bool joins_after = at < n && piece(reply, at)->start == end;

    if (at < n && piece(reply, at)->start < end) {
        reply->wrong = true;
    } else if (joins_before && joins_after) {
        piece(reply, at - 1)->end = piece(reply, at)->end;
        g_array_remove_index(reply->pieces, at);
    } else if (joins_before) {
        piece(reply, at - 1)->end = end;
    } else if (joins_after) {
        piece(reply, at)->start = start;
    } else if (n == FL_REPLY_PIECES_MAX) {
        reply->wrong = true;
    } else {
        Piece new = {.start = start, .end = end};
        g_array_insert_val(reply->pieces, at, new);
    }
}

void fl_reply_add(FlReply *reply, uint64_t start, uint64_t length)
{
    if (reply->wrong)
        return;
    if (length == 0 || length > UINT64_MAX - start) {
        reply->wrong = true;
    } else if (reply->pieces != NULL) {
        add_piece(reply, start, start + length);
    } else if (reply->start == reply->end) {
        reply->start = start;
        reply->end = start + length;
    } else if (reply->end == start) {
        reply->end = start + length;
    } else {
        Piece one = {.start = reply->start, .end = reply->end};

        reply->pieces = g_array_new(FALSE, FALSE, sizeof(Piece));
        g_array_append_val(reply->pieces, one);
        add_piece(reply, start, start + length);
    }
}

bool fl_reply_is(const FlReply *reply, uint64_t start, uint64_t length)
{
    Piece one = {.start = reply->start, .end = reply->end};

    if (reply->pieces != NULL && reply->pieces->len == 1)
        one = *piece(reply, 0);
    return !reply->wrong && (reply->pieces == NULL || reply->pieces->len == 1) &&
           one.start == start && one.end - one.start == length;
}
