/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walking ranges of a disk by block status, with a request for each under way. Private to
 * source/nbd/.
 *
 * What a server replies is checked here: see blockstatus.h. Blocks; for workers.
 */
#pragma once

#include "source/conn.h"
#include "util/budget.h"

#include <libnbd.h>

/* A request names at most 2^32-1 bytes; kept to a multiple of every block size. */
#define FL_WALK_REQUEST_MAX (UINT64_C(2) << 30)

/* The memory for the maps of one export, while they are loaded. */
typedef struct {
    FlBudget *budget; /* NULL: there is no limit but FL_MAPS_MAX */
    uint64_t bytes;   /* that they take so far */
    uint64_t taken;   /* of the budget */
} FlMapsUse;

/*
 * Walks N ranges for all CONTEXTS, which NBD has negotiated. The builders that are returned hold
 * what was told of each range, by range and then by context; NULL with an error. USE goes on
 * counting what the maps of the export take. REFUSED tells a server that replied with an error from
 * all other failures. After a failure NBD can only be closed.
 */
FlMapBuilder **fl_walk(struct nbd_handle *nbd, const char *const *contexts, const FlSpan *spans,
                       guint n, FlMapsUse *use, bool *refused, const FlWait *wait, GError **error);
