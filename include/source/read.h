/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "util/error.h"

#include <stdint.h>

typedef struct FlRead FlRead;

/* A read under way. The caller fills the first part, keeps it in place until DONE is called, and
 * may not give it back sooner. */
struct FlRead {
    void *buf; /* undefined unless the read succeeds */
    size_t length;
    uint64_t offset; /* of the disk; [offset, offset + length) lies inside it */
    bool ahead;      /* nobody waits for it yet: everything else goes first */
    void (*done)(FlRead *read, errint_t result);

    /* Private to disk/ and source/. */
    GList link;
    struct FlConn *conn;
    struct FlPread *pread; /* what libnbd has of it; NULL: nothing */
    int error;             /* what the server said */
    unsigned faults;       /* replies that were against the protocol */
    gint64 since;          /* when it was asked for, or, if it is held, answered */
    uint64_t number;       /* of the question about it, if it is held */
};
