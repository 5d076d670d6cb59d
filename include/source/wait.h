/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

/* Time limits and cancellation of a blocking call. */
typedef struct {
    unsigned seconds;     /* for each reply; per byte, a slow server could stall us forever */
    gint64 deadline;      /* for the whole call (g_get_monotonic_time()); 0: none */
    guint64 lap;          /* loading maps may take this long, in seconds, for each thousandth of a
                             disk: then DEADLINE is only that of the first; 0: for all of it */
    gint64 *moved;        /* atomic: set to the time when DEADLINE has moved on; may be NULL */
    GCancellable *cancel; /* may be NULL */
} FlWait;
