/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/size.h"

#include <string.h>

bool fl_size_parse(const char *text, uint64_t *size, GError **error)
{
    static const char suffixes[] = "KMGTPE";
    char *end = NULL;
    guint64 number = g_ascii_strtoull(text, &end, 10);
    unsigned shift = 0;

    if (end != text && *end != '\0') {
        const char *suffix = strchr(suffixes, g_ascii_toupper(*end));
        if (suffix != NULL) {
            shift = 10 * (unsigned)(suffix - suffixes + 1);
            end++;
            if (g_str_equal(end, "iB") || g_str_equal(end, "B"))
                end += strlen(end);
        }
    }
    if (end == text || *end != '\0' || !g_ascii_isdigit(*text) ||
        number > ((uint64_t)INT64_MAX >> shift))
        return fl_fail_usage(
            error, "'%s' is not a size: write bytes, or a number with K, M, G or T", text);
    *size = number << shift;
    return true;
}

bool fl_seconds_parse(const char *text, unsigned *seconds, GError **error)
{
    guint64 number;

    if (!g_ascii_string_to_unsigned(text, 10, 0, 1000000000, &number, NULL))
        return fl_fail_usage(error, "'%s' is not a number of seconds", text);
    *seconds = (unsigned)number;
    return true;
}
