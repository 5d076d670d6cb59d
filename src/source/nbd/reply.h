/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tracks which bytes of a read the chunks of a structured reply have delivered. Private to
 * source/nbd/.
 *
 * The chunks may arrive in any order, but together they must cover the request, each byte once (NBD
 * protocol, "Structured reply chunk message"). libnbd leaves this check to its caller: bytes that
 * no chunk delivered keep the buffer's previous contents.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Maximum number of disjoint pieces at a time: no real server sends more, and inserting a piece
 * takes time. */
#define FL_REPLY_PIECES_MAX 1024u

typedef struct {
    uint64_t start, end; /* the usual single piece; empty if nothing has arrived */
    GArray *pieces;      /* all pieces, sorted and disjoint; NULL if there is only one */
    bool wrong;
} FlReply;

void fl_reply_clear(FlReply *reply);

/* Adds a chunk with the bytes [start, start + length). */
void fl_reply_add(FlReply *reply, uint64_t start, uint64_t length);
/* Whether exactly the bytes [start, start + length) have arrived, each once. */
bool fl_reply_is(const FlReply *reply, uint64_t start, uint64_t length);
