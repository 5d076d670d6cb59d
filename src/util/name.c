/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/name.h"

#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

char *fl_name_encode(const char *name)
{
    GString *out = g_string_new(NULL);
    const char *p = name;

    if (*name == '\0')
        return g_string_free(g_string_assign(out, "default"), FALSE);

    while (*p != '\0') {
        gunichar c = g_utf8_get_char_validated(p, -1);
        bool valid = c != (gunichar)-1 && c != (gunichar)-2;
        size_t n = valid ? (size_t)(g_utf8_next_char(p) - p) : 1;

        if (!valid || g_unichar_iscntrl(c) || c == '/' || c == '%' ||
            ((c == '.' || c == '-') && p == name)) {
            for (size_t i = 0; i < n; i++)
                g_string_append_printf(out, "%%%02X", (unsigned char)p[i]);
        } else {
            g_string_append_len(out, p, (gssize)n);
        }
        p += n;
    }

    if (out->len > FL_NAME_MAX) {
        size_t keep = FL_NAME_MAX - 17;
        /* Never cut through a character, nor through a %XX. */
        while (keep > 0 && ((out->str[keep] & 0xC0) == 0x80 || out->str[keep - 1] == '%' ||
                            (keep > 1 && out->str[keep - 2] == '%')))
            keep--;
        g_string_truncate(out, keep);
        g_string_append_printf(out, "%%%016" G_GINT64_MODIFIER "x", fl_name_hash(name, NULL));
    }
    return g_string_free(out, FALSE);
}

guint64 fl_name_hash(const char *first, ...)
{
    /* FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/ ; a string's NUL is hashed with it. */
    guint64 hash = 0xcbf29ce484222325;
    va_list args;

    va_start(args, first);
    for (const char *s = first; s != NULL; s = va_arg(args, const char *)) {
        size_t n = strlen(s) + 1;
        for (size_t i = 0; i < n; i++)
            hash = (hash ^ (unsigned char)s[i]) * 0x100000001b3;
    }
    va_end(args);
    return hash;
}
