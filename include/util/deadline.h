/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Points in time by which something has to be done, as g_get_monotonic_time() counts. Any thread.
 */
#pragma once

#include <glib.h>

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
