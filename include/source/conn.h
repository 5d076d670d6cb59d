/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection to one export, and the reads that it has under way.
 *
 * fl_source_open() makes one in a worker, where it may be asked for what blocks: verify(),
 * peek(), status(). Then it is handed to the loop, started once, and from there on every function
 * is called there, and none blocks. It belongs to whoever opened it, until fl_conn_close().
 *
 * The accounts of what is under way are kept here, for all kinds of sources. A kind embeds a FlConn
 * at the start of its own struct and fills in a FlConnOps.
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

/* A read under way. Whoever asks fills the first part, keeps it in place until DONE is called, and
 * may not give it back sooner. */
struct FlRead {
    void *buf; /* undefined unless the read succeeds */
    size_t length;
    uint64_t offset; /* of the disk; [offset, offset + length) lies inside it */
    bool ahead;      /* nobody waits for it yet: everything else goes first */
    void (*done)(FlRead *read, errint_t result);

    /* Private to disk/ and source/. */
    GList link;
    FlConn *conn;
    void *command;   /* what the kind of source has of it; NULL: nothing */
    int error;       /* 0, an errno, or FL_READ_WRONG */
    unsigned faults; /* answers that were FL_READ_WRONG */
    gint64 since;    /* when it was asked for, or, if it is held, answered */
    uint64_t number; /* of the question about it, if it is held */
};

/* What no server can say: its reply is against the protocol. The read is asked again on another
 * connection, and fails with EPROTO if that goes on. */
#define FL_READ_WRONG (-1)

/* Of the owner, told in the loop. */
typedef struct {
    /* A read was answered: read->error is 0 or an errno of the server's. May call fl_conn_read(),
     * but not fl_conn_close(). */
    void (*answered)(FlConn *conn, FlRead *read, void *opaque);
    /* The connection is of no use any more; LEFT holds reads that it did not answer (by their
     * links), to be asked again elsewhere. The owner closes it, which hands over the others. */
    void (*lost)(FlConn *conn, GQueue *left, const char *why, void *opaque);
} FlConnEvents;

/* Of a kind of source. */
typedef struct {
    /* In a worker, before start(). Whether the disk is still what MAPS say, by a sample:
     * FL_ERROR_CHANGED if it is not, FL_ERROR_LOST if that cannot be known now. */
    bool (*verify)(FlConn *conn, const FlDiskMaps *maps, const FlWait *wait, GError **error);
    /* In a worker, before start(). Reads N spans, of which some may be empty; BYTES has one buffer
     * for each (NULL for an empty one), to be freed with g_free(), and none after a failure. */
    bool (*peek)(FlConn *conn, const FlSpan *spans, unsigned n, void **bytes, const FlWait *wait,
                 GError **error);
    /* In a worker, before start(). Whether CONTEXT can be asked for; and what it says of N spans:
     * MAPS has a map of each, from its start on, and none after a failure. */
    bool (*has)(FlConn *conn, const char *context);
    bool (*status)(FlConn *conn, const char *context, const FlSpan *spans, unsigned n, FlMap **maps,
                   const FlWait *wait, GError **error);
    /* Answers come in the loop from now on. */
    void (*start)(FlConn *conn);
    /* READ is counted as under way already. To be answered by fl_conn_answer(), also at once. */
    void (*read)(FlConn *conn, FlRead *read);
    /* READ, answered or given up, is about to leave: lets go of its command. False if what was
     * answered is the end of the connection and no answer: the read is asked again elsewhere. */
    bool (*settle)(FlConn *conn, FlRead *read);
    /* Why the connection is of no use any more; NULL if it is. */
    const char *(*fault)(const FlConn *conn);
    /* Some answers wait for fl_conn_tell(), which cannot be called here: it shall be, by the loop.
     */
    void (*wake)(FlConn *conn);
    /* Ends the connection and frees all but FlConn. No buffer is written any more when it returns,
     * and nothing is answered. Also of a connection that was never started. */
    void (*close)(FlConn *conn);
} FlConnOps;

/* Every kind of connection starts with this. */
struct FlConn {
    const FlConnOps *ops;
    const FlConnEvents *events; /* NULL until it is started */
    void *opaque;
    GQueue under_way; /* of FlRead, by their links */
    GQueue answered;  /* not told yet */
    uint64_t bytes;   /* of what is under way */
    gint64 last_sign;
    bool telling; /* what is answered meanwhile is told without another turn of the loop */
};

bool fl_conn_verify(FlConn *conn, const FlDiskMaps *maps, const FlWait *wait, GError **error);
bool fl_conn_peek(FlConn *conn, const FlSpan *spans, unsigned n, void **bytes, const FlWait *wait,
                  GError **error);
bool fl_conn_has(FlConn *conn, const char *context);
bool fl_conn_status(FlConn *conn, const char *context, const FlSpan *spans, unsigned n,
                    FlMap **maps, const FlWait *wait, GError **error);
/* Hands it over to the loop. */
void fl_conn_start(FlConn *conn, const FlConnEvents *events, void *opaque);
void fl_conn_read(FlConn *conn, FlRead *read);
/* Reads that were not answered move to LEFT; their buffers are not written any more. LEFT may be
 * NULL for a connection that was never started. CONN is freed; NULL is fine. */
void fl_conn_close(FlConn *conn, GQueue *left);

/* Reads and bytes under way. */
unsigned fl_conn_in_flight(const FlConn *conn);
uint64_t fl_conn_bytes(const FlConn *conn);
/* When the read that has been under way longest was first asked for; only while some are. */
gint64 fl_conn_oldest(const FlConn *conn);
/* When something last came from the server, or the first of the reads under way was asked
 * (g_get_monotonic_time()). */
gint64 fl_conn_last_sign(const FlConn *conn);

/* For the kinds. */

/* A zeroed connection of BYTES bytes (the kind's struct). */
FlConn *fl_conn_alloc(size_t bytes, const FlConnOps *ops);
/* Something came from the server. */
void fl_conn_note_sign(FlConn *conn);
/* READ was answered with ERROR. Only notes it, since this may be inside of a library. */
void fl_conn_answer(FlConn *conn, FlRead *read, int error);
/* Tells the owner what was answered, and, if fault() has one, that the connection is lost. CONN may
 * be gone afterwards. */
void fl_conn_tell(FlConn *conn);
