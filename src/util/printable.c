/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/printable.h"

#include <glib.h>

static gunichar harmless(gunichar c)
{
    switch (g_unichar_type(c)) {
    case G_UNICODE_LINE_SEPARATOR:
    case G_UNICODE_PARAGRAPH_SEPARATOR:
        return ' ';
    case G_UNICODE_CONTROL:
        return g_unichar_isspace(c) ? ' ' : '?';
    case G_UNICODE_FORMAT:
    case G_UNICODE_UNASSIGNED:
    case G_UNICODE_PRIVATE_USE:
    case G_UNICODE_SURROGATE:
        return '?';
    default:
        return c;
    }
}

char *fl_printable(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *line = g_string_new(NULL);

    for (const char *p = valid; *p != '\0'; p = g_utf8_next_char(p))
        g_string_append_unichar(line, harmless(g_utf8_get_char(p)));
    return g_string_free(line, FALSE);
}
