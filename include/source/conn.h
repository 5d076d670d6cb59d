/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection to one export, and its reads in flight.
 *
 * fl_source_open() creates a connection in a worker thread, which can call the blocking functions:
 * verify(), peek(), status(). The connection is then handed to the loop and started once. From then
 * on all functions are called in the loop, and none blocks. The caller of fl_source_open() owns the
 * connection until fl_conn_close().
 *
 * This file tracks the reads in flight for all kinds of sources. A kind embeds FlConn at the start
 * of its own struct and fills in FlConnOps.
 */
#pragma once

#include "map/maps.h"
#include "source/wait.h"

/* The range [start, end) of a disk, in bytes. */
typedef struct {
    uint64_t start, end;
} FlSpan;

typedef struct FlConn FlConn;
typedef struct FlRead FlRead;

/* A read in flight. The caller fills in the first part and must keep the struct and its buffer
 * valid until DONE is called. */
struct FlRead {
    void *buf; /* undefined unless the read succeeds */
    size_t length;
    uint64_t offset; /* on the disk; [offset, offset + length) lies within it */
    bool ahead;      /* read-ahead: has the lowest priority */
    void (*done)(FlRead *read, errint_t result);

    /* Private to disk/ and source/. */
    GList link;
    FlConn *conn;
    void *command;   /* the source's own state for it; NULL: none */
    int error;       /* 0, an errno, or FL_READ_WRONG */
    unsigned faults; /* number of FL_READ_WRONG replies */
    bool sent;       /* it was sent on some connection */
    gint64 since;    /* when it was requested, released by the throttle or, if held, answered */
    uint64_t number; /* if held: of the confirmation that it waits for */
};

/* Not a server's error: the reply violates the protocol. The read is retried on another connection
 * and fails with EPROTO if this keeps happening. */
#define FL_READ_WRONG (-1)

/* Callbacks of the owner, called in the loop. */
typedef struct {
    /* A read was answered: read->error is 0 or an errno from the server. May call fl_conn_read(),
     * but not fl_conn_close(). */
    void (*answered)(FlConn *conn, FlRead *read, void *opaque);
    /* The connection failed. LEFT holds unanswered reads (by their links), to be retried elsewhere.
     * The owner must close the connection, which hands over the remaining ones. */
    void (*lost)(FlConn *conn, GQueue *left, const char *why, void *opaque);
} FlConnEvents;

/* Implemented by each kind of source. */
typedef struct {
    /* In a worker, before start(). Samples whether the disk still matches MAPS: FL_ERROR_CHANGED if
     * not, FL_ERROR_LOST if that cannot be determined now. */
    bool (*verify)(FlConn *conn, const FlDiskMaps *maps, const FlWait *wait, GError **error);
    /* In a worker, before start(). Reads N spans, some of which may be empty, into BYTES: one
     * buffer each (NULL for an empty span), to be freed with g_free(); none on failure. */
    bool (*peek)(FlConn *conn, const FlSpan *spans, unsigned n, void **bytes, const FlWait *wait,
                 GError **error);
    /* In a worker, before start(). has: whether CONTEXT can be queried. status: sets MAPS to one
     * map for each of N spans, relative to the start of the span; none on failure. */
    bool (*has)(FlConn *conn, const char *context);
    bool (*status)(FlConn *conn, const char *context, const FlSpan *spans, unsigned n, FlMap **maps,
                   const FlWait *wait, GError **error);
    /* From now on replies are delivered in the loop. */
    void (*start)(FlConn *conn);
    /* Sends READ, which already counts as in flight. The reply is given with fl_conn_answer(),
     * possibly before this returns. */
    void (*read)(FlConn *conn, FlRead *read);
    /* READ was answered or given up: releases its command. Returns false if the "answer" is really
     * the end of the connection, so that the read must be retried elsewhere. */
    bool (*settle)(FlConn *conn, FlRead *read);
    /* Why the connection is unusable; NULL if it is usable. */
    const char *(*fault)(const FlConn *conn);
    /* Answers are pending but fl_conn_tell() cannot be called here: makes the loop call it. */
    void (*wake)(FlConn *conn);
    /* Ends the connection, started or not, and frees everything but FlConn. Once this returns, no
     * buffer is written and nothing is answered any more. */
    void (*close)(FlConn *conn);
} FlConnOps;

/* Every kind of connection starts with this. */
struct FlConn {
    const FlConnOps *ops;
    const FlConnEvents *events; /* NULL until it is started */
    void *opaque;
    GQueue under_way; /* of FlRead, linked by FlRead.link */
    GQueue answered;  /* not reported to the owner yet */
    uint64_t bytes;   /* in flight */
    gint64 last_sign;
    bool confirmed; /* private to disk/: it goes through a relay, see disk/disk.h */
    bool telling;   /* in fl_conn_tell(): reports new answers too, without waking the loop */
};

bool fl_conn_verify(FlConn *conn, const FlDiskMaps *maps, const FlWait *wait, GError **error);
bool fl_conn_peek(FlConn *conn, const FlSpan *spans, unsigned n, void **bytes, const FlWait *wait,
                  GError **error);
bool fl_conn_has(FlConn *conn, const char *context);
bool fl_conn_status(FlConn *conn, const char *context, const FlSpan *spans, unsigned n,
                    FlMap **maps, const FlWait *wait, GError **error);
/* Hands CONN over to the loop. */
void fl_conn_start(FlConn *conn, const FlConnEvents *events, void *opaque);
void fl_conn_read(FlConn *conn, FlRead *read);
/* Moves unanswered reads to LEFT, whose buffers are no longer written, and frees CONN. LEFT may be
 * NULL for a connection that was never started. CONN may be NULL. */
void fl_conn_close(FlConn *conn, GQueue *left);

/* Reads and bytes in flight. */
unsigned fl_conn_in_flight(const FlConn *conn);
uint64_t fl_conn_bytes(const FlConn *conn);
/* When the oldest read in flight was first requested. Call only while there are reads in flight. */
gint64 fl_conn_oldest(const FlConn *conn);
/* When the server last sent something, or the first read in flight was sent
 * (g_get_monotonic_time()). */
gint64 fl_conn_last_sign(const FlConn *conn);

/* For implementations. */

/* Allocates a zeroed connection of BYTES bytes (the size of the kind's struct). */
FlConn *fl_conn_alloc(size_t bytes, const FlConnOps *ops);
/* Records that the server sent something. */
void fl_conn_note_sign(FlConn *conn);
/* Records that READ was answered with ERROR. Calls nothing else, since a library may be on the
 * stack. */
void fl_conn_answer(FlConn *conn, FlRead *read, int error);
/* Reports answers to the owner and, if fault() is set, the loss of the connection. CONN may be
 * freed on return. */
void fl_conn_tell(FlConn *conn);
