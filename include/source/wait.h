/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

/* Time limits and cancellation of a blocking call. */
typedef struct {
    unsigned seconds;     /* for each reply; per byte, a slow server could stall us forever */
    gint64 deadline;      /* for the whole call (g_get_monotonic_time()); 0: none */
    GCancellable *cancel; /* may be NULL */
} FlWait;
