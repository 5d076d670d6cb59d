/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walks ranges of a disk by block status, with one request per range in flight. Private to
 * source/nbd/.
 *
 * Checks the server's replies: see blockstatus.h. Blocks; for workers.
 */
#pragma once

#include "source/conn.h"
#include "source/wait.h"
#include "util/budget.h"

#include <libnbd.h>

/* A request covers at most 2^32-1 bytes; this is a multiple of every block size. */
#define FL_WALK_REQUEST_MAX (UINT64_C(2) << 30)

/* A load of maps may take long, but must make progress: see FlWait.lap. */
typedef struct {
    FlWait wait;   /* its deadline moves on */
    uint64_t step; /* progress that moves it on; 0: none does */
    uint64_t next; /* progress at which it moves on next */
} FlLap;

/* A load within WAIT that is complete when its progress is TOTAL. */
FlLap fl_lap(const FlWait *wait, uint64_t total);
void fl_lap_reach(FlLap *lap, uint64_t progress);

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
 * WAIT moves on while the walk makes progress. After a failure NBD can only be closed.
 */
FlMapBuilder **fl_walk(struct nbd_handle *nbd, const char *const *contexts, const FlSpan *spans,
                       guint n, FlMapsUse *use, bool *refused, FlWait *wait, GError **error);
