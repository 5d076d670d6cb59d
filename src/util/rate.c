/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/rate.h"

#include "util/deadline.h"

#define SLOT_USEC (fl_deadline_seconds(FL_RATE_SECONDS) / FL_RATE_SLOTS)

void fl_rate_add(FlRate *rate, uint64_t amount, gint64 now)
{
    gint64 turn = now / SLOT_USEC;
    guint slot = (guint)(turn % FL_RATE_SLOTS);

    if (rate->turn[slot] != turn)
        rate->amount[slot] = 0;
    rate->turn[slot] = turn;
    rate->amount[slot] += amount;
}

uint64_t fl_rate_get(const FlRate *rate, gint64 now)
{
    gint64 turn = now / SLOT_USEC, first = turn;
    uint64_t sum = 0;

    for (guint slot = 0; slot < FL_RATE_SLOTS; slot++) {
        if (rate->amount[slot] == 0 || rate->turn[slot] + FL_RATE_SLOTS <= turn)
            continue;
        sum += rate->amount[slot];
        first = MIN(first, rate->turn[slot]);
    }
    return (uint64_t)((double)sum * G_USEC_PER_SEC /
                      (double)MAX(now - first * SLOT_USEC, G_USEC_PER_SEC));
}
