/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/log.h"

#include <stdio.h>
#include <unistd.h>

static GLogWriterOutput write_log(GLogLevelFlags level, const GLogField *fields, gsize n,
                                  gpointer data)
{
    if ((level & G_LOG_LEVEL_MASK) > (GLogLevelFlags)GPOINTER_TO_UINT(data))
        return G_LOG_WRITER_HANDLED;
    if (g_log_writer_is_journald(STDERR_FILENO))
        return g_log_writer_journald(level, fields, n, NULL);

    for (gsize i = 0; i < n; i++) {
        if (g_str_equal(fields[i].key, "MESSAGE"))
            fprintf(stderr, "fleecefs: %s\n", (const char *)fields[i].value);
    }
    return G_LOG_WRITER_HANDLED;
}

void fl_log_init(GLogLevelFlags level)
{
    g_log_set_writer_func(write_log, GUINT_TO_POINTER(level), NULL);
}
