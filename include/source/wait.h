/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

/* How long a blocking call may take, and what ends it early. */
typedef struct {
    unsigned seconds;     /* for each reply: not each byte, or a server could drip for ever */
    gint64 deadline;      /* for all of it (g_get_monotonic_time()); 0: none */
    GCancellable *cancel; /* may be NULL */
} FlWait;
