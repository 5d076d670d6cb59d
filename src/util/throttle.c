/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/throttle.h"

#define NS_PER_USEC 1000
#define NS_PER_SEC  G_GINT64_CONSTANT(1000000000)
/* Longer than anyone waits, but far from an overflow. */
#define DEBT_MAX (G_GINT64_CONSTANT(1) << 61)

void fl_throttle_set(FlThrottle *throttle, uint64_t rate, gint64 now)
{
    gint64 start = now * NS_PER_USEC;
    double debt = (double)MAX(throttle->even - start, 0);

    if (rate > 0)
        debt *= (double)throttle->rate / (double)rate;
    throttle->rate = rate;
    throttle->even = start + (gint64)MIN(debt, (double)DEBT_MAX);
}

gint64 fl_throttle_take(FlThrottle *throttle, uint64_t bytes, gint64 now)
{
    gint64 start = now * NS_PER_USEC;
    double debt;

    if (throttle->rate == 0)
        return 0;
    if (throttle->even > start)
        return (throttle->even - start) / NS_PER_USEC + 1;
    debt = (double)bytes * NS_PER_SEC / (double)throttle->rate;
    throttle->even =
        MAX(throttle->even, start - FL_THROTTLE_BURST_NS) + (gint64)MIN(debt, (double)DEBT_MAX);
    return 0;
}
