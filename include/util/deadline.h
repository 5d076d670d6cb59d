/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Deadlines on the clock of g_get_monotonic_time(). Thread-safe. */
#pragma once

#include <glib.h>

/* Converts SECONDS to microseconds. Use this instead of multiplying in place: options are unsigned
 * int, so the product would wrap at 32 bits. */
static inline gint64 fl_deadline_seconds(guint64 seconds)
{
    return (gint64)MIN(seconds, (guint64)(G_MAXINT64 / 4 / G_USEC_PER_SEC)) * G_USEC_PER_SEC;
}

/* SECONDS from now. */
static inline gint64 fl_deadline_in(guint64 seconds)
{
    return g_get_monotonic_time() + fl_deadline_seconds(seconds);
}

/* Microseconds left; 0 once DEADLINE has passed. MAX() would read the clock twice and could return
 * a negative value. */
static inline gint64 fl_deadline_left(gint64 deadline)
{
    gint64 now = g_get_monotonic_time();

    return deadline > now ? deadline - now : 0;
}

/* The same as a timeout for poll(2): milliseconds, rounded up to avoid spinning in the last one. */
static inline int fl_deadline_poll(gint64 deadline)
{
    gint64 ms = (fl_deadline_left(deadline) + 999) / 1000;

    return (int)MIN(ms, G_MAXINT);
}
