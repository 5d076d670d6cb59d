/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/log.h"

#include <stdio.h>
#include <unistd.h>

/* What servers and VMs call their things must neither end the line nor command the terminal. */
static char *one_line(const char *message)
{
    g_autofree char *valid = g_utf8_make_valid(message, -1);
    GString *line = g_string_new(NULL);

    for (const char *p = valid; *p != '\0'; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        g_string_append_unichar(line, !g_unichar_iscntrl(c) ? c : g_unichar_isspace(c) ? ' ' : '?');
    }
    return g_string_free(line, FALSE);
}

static GLogWriterOutput write_log(GLogLevelFlags level, const GLogField *fields, gsize n,
                                  gpointer data)
{
    if ((level & G_LOG_LEVEL_MASK) > (GLogLevelFlags)GPOINTER_TO_UINT(data))
        return G_LOG_WRITER_HANDLED;
    if (g_log_writer_is_journald(STDERR_FILENO))
        return g_log_writer_journald(level, fields, n, NULL);

    for (gsize i = 0; i < n; i++) {
        if (g_str_equal(fields[i].key, "MESSAGE")) {
            g_autofree char *line = one_line(fields[i].value);
            fprintf(stderr, "fleecefs: %s\n", line);
        }
    }
    return G_LOG_WRITER_HANDLED;
}

void fl_log_init(GLogLevelFlags level)
{
    g_log_set_writer_func(write_log, GUINT_TO_POINTER(level), NULL);
}
