/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Throughput over the last few seconds, kept in slots of a fraction of a second. Cheap to update;
 * costs nothing while idle. A zeroed struct is a valid initial state. Not thread-safe.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define FL_RATE_SECONDS 5
#define FL_RATE_SLOTS   G_GINT64_CONSTANT(20) /* in FL_RATE_SECONDS */

typedef struct {
    gint64 turn[FL_RATE_SLOTS]; /* time / slot length when AMOUNT was last reset */
    uint64_t amount[FL_RATE_SLOTS];
} FlRate;

/* Adds AMOUNT at time NOW (g_get_monotonic_time()). */
void fl_rate_add(FlRate *rate, uint64_t amount, gint64 now);
/* The amount per second over the last FL_RATE_SECONDS, or since the first amount in that window,
 * but over at least one second. */
uint64_t fl_rate_get(const FlRate *rate, gint64 now);
