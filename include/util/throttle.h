/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A rate limit in bytes per second, as a token bucket: taking more than it holds leaves a debt, and
 * nothing can be taken until the debt is paid off. So a single request may exceed the bucket, and
 * any period passes at most the limit, plus FL_THROTTLE_BURST_NS and one request. A zeroed struct
 * has no limit. Times are those of g_get_monotonic_time(), in microseconds. Not thread-safe.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Nanoseconds of credit that accumulate while idle, to make up for late timers of the loop. */
#define FL_THROTTLE_BURST_NS G_GINT64_CONSTANT(100000000)

typedef struct {
    uint64_t rate; /* bytes per second; 0: no limit */
    gint64 even;   /* nanoseconds: time at which the debt is paid off */
} FlThrottle;

/* Sets the limit to RATE bytes per second from NOW on; 0: no limit. Keeps the debt, in bytes. */
void fl_throttle_set(FlThrottle *throttle, uint64_t rate, gint64 now);
/* Takes BYTES and returns 0, or takes nothing and returns the microseconds to wait. */
gint64 fl_throttle_take(FlThrottle *throttle, uint64_t bytes, gint64 now);
