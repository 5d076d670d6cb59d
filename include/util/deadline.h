/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Points in time by which something has to be done, as g_get_monotonic_time() counts. Any thread.
 */
#pragma once

#include <glib.h>

/* SECONDS, an option's or a protocol's, as microseconds. Seconds are multiplied here and nowhere
 * else: those of an option are unsigned, and so would the product be, of 32 bits. */
static inline gint64 fl_deadline_seconds(guint64 seconds)
{
    return (gint64)MIN(seconds, (guint64)(G_MAXINT64 / 4 / G_USEC_PER_SEC)) * G_USEC_PER_SEC;
}

/* SECONDS from now. */
static inline gint64 fl_deadline_in(guint64 seconds)
{
    return g_get_monotonic_time() + fl_deadline_seconds(seconds);
}

/* Microseconds that are left; 0 once it has passed. A function, since MAX() would look at the clock
 * twice, and the second look may come too late for the first. */
static inline gint64 fl_deadline_left(gint64 deadline)
{
    gint64 now = g_get_monotonic_time();

    return deadline > now ? deadline - now : 0;
}

/* The same for poll(2): milliseconds, rounded up, so that the last is not spent in turning round.
 */
static inline int fl_deadline_poll(gint64 deadline)
{
    gint64 ms = (fl_deadline_left(deadline) + 999) / 1000;

    return (int)MIN(ms, G_MAXINT);
}
