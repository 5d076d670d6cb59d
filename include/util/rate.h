/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How fast something goes on: amounts of the last seconds, in slots of a fraction of a second.
 * Costs next to nothing to keep and nothing while nothing happens. All zeros is a rate to begin
 * with. Not thread-safe.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define FL_RATE_SECONDS 5
#define FL_RATE_SLOTS   G_GINT64_CONSTANT(20) /* that these are cut into */

typedef struct {
    gint64 turn[FL_RATE_SLOTS]; /* the slot's number since the clock began */
    uint64_t amount[FL_RATE_SLOTS];
} FlRate;

/* AMOUNT more at NOW (g_get_monotonic_time()). */
void fl_rate_add(FlRate *rate, uint64_t amount, gint64 now);
/* Per second, over the last FL_RATE_SECONDS, or since it began if that is less; over a second at
 * least. */
uint64_t fl_rate_get(const FlRate *rate, gint64 now);
