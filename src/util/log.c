/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/log.h"

#include "util/printable.h"

#include <stdbool.h>
#include <stdio.h>
#include <syslog.h>
#include <unistd.h>

/* GLib allows setting the writer only once, so its state is here. */
static struct {
    GLogLevelFlags level;
    bool journal; /* stderr is connected to the journal */
    gint syslog;  /* atomic: stderr is closed, use syslog(3) */
} where;

static GLogWriterOutput write_log(GLogLevelFlags level, const GLogField *fields, gsize n,
                                  gpointer data)
{
    /* GLib's levels are the priorities of syslog(3), as bits. */
    int priority = g_bit_nth_lsf(level & G_LOG_LEVEL_MASK, -1);

    if ((level & G_LOG_LEVEL_MASK) > where.level)
        return G_LOG_WRITER_HANDLED;
    for (gsize i = 0; i < n; i++) {
        g_autofree char *line = NULL;

        if (!g_str_equal(fields[i].key, "MESSAGE"))
            continue;
        line = fl_printable(fields[i].value);
        if (g_atomic_int_get(&where.syslog))
            syslog(priority, "%s", line);
        else if (where.journal)
            fprintf(stderr, "<%d>%s\n", priority, line);
        else
            fprintf(stderr, "fleecefs: %s\n", line);
    }
    return G_LOG_WRITER_HANDLED;
}

void fl_log_init(GLogLevelFlags level)
{
    where.level = level;
    where.journal = g_log_writer_is_journald(STDERR_FILENO);
    g_log_set_writer_func(write_log, NULL, NULL);
}

void fl_log_open_syslog(void)
{
    openlog("fleecefs", LOG_PID | LOG_NDELAY, LOG_DAEMON);
}

void fl_log_to_syslog(void)
{
    g_atomic_int_set(&where.syslog, TRUE);
}
