/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walks ranges of a disk by block status, with one request per range in flight. Private to
 * source/nbd/.
 *
 * Checks the server's replies: see blockstatus.h. Blocks; for workers.
 */
#pragma once

#include "source/conn.h"
#include "util/budget.h"

#include <libnbd.h>

/* A request covers at most 2^32-1 bytes; this is a multiple of every block size. */
#define FL_WALK_REQUEST_MAX (UINT64_C(2) << 30)

/* Memory used by the maps of one export while they are loaded. */
typedef struct {
    FlBudget *budget; /* NULL: FL_MAPS_MAX is the only limit */
    uint64_t bytes;   /* used so far */
    uint64_t taken;   /* charged to the budget */
} FlMapsUse;

/*
 * Walks N ranges for all CONTEXTS, which NBD has negotiated. The returned builders hold the result
 * for each range, by range and then by context; NULL with an error. USE accumulates the memory of
 * the export's maps. REFUSED is set if the server replied with an error, unlike any other failure.
 * After a failure NBD can only be closed.
 */
FlMapBuilder **fl_walk(struct nbd_handle *nbd, const char *const *contexts, const FlSpan *spans,
                       guint n, FlMapsUse *use, bool *refused, const FlWait *wait, GError **error);
