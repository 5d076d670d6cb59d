/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/option-list.h"

#include <glib.h>

/* The byte that TEXT begins with, of "0" to "377"; 0 if it does not. */
static char octal_byte(const char *text)
{
    unsigned value = 0;

    for (int i = 0; i < 3; i++) {
        if (text[i] < '0' || text[i] > '7')
            return '\0';
        value = value * 8 + (unsigned)(text[i] - '0');
    }
    return value <= 0xff ? (char)value : '\0';
}

static void end_part(GPtrArray *parts, GString *part)
{
    if (part->len > 0)
        g_ptr_array_add(parts, g_strdup(part->str));
    g_string_truncate(part, 0);
}

char **fl_option_list_split(const char *list)
{
    GPtrArray *parts = g_ptr_array_new();
    g_autoptr(GString) part = g_string_new(NULL);

    for (; *list != '\0'; list++) {
        if (*list == ',') {
            end_part(parts, part);
        } else if (*list == '\\' && octal_byte(list + 1) != '\0') {
            g_string_append_c(part, octal_byte(list + 1));
            list += 3;
        } else {
            if (*list == '\\' && list[1] != '\0')
                list++;
            g_string_append_c(part, *list);
        }
    }
    end_part(parts, part);
    g_ptr_array_add(parts, NULL);
    return (char **)g_ptr_array_free(parts, FALSE);
}
