/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which bytes of a read the chunks of a structured reply have brought. Private to source/nbd/.
 *
 * The chunks may come in any order, but together they have to cover what was asked for, and each
 * byte once (NBD protocol, "Structured reply chunk message"). libnbd leaves that to its caller:
 * what no chunk brought is whatever the buffer held before.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Separate pieces that may have arrived at a time: more of them nobody sends, and to find a place
 * among them costs time. */
#define FL_REPLY_PIECES_MAX 1024u

typedef struct {
    uint64_t start, end; /* of the one piece that there usually is; empty: nothing has arrived */
    GArray *pieces;      /* all of them, sorted and apart; NULL: there is only the one */
    bool wrong;
} FlReply;

void fl_reply_clear(FlReply *reply);

/* A chunk with the bytes [start, start + length). */
void fl_reply_add(FlReply *reply, uint64_t start, uint64_t length);
/* Whether exactly the bytes [start, start + length) have arrived, and each of them once. */
bool fl_reply_is(const FlReply *reply, uint64_t start, uint64_t length);
