/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stored/files.h"

#include <string.h>

/* Takes the number at *TEXT, in C syntax, and the blank after it. */
static bool take_number(const char **text, uint64_t *number)
{
    bool hex = g_str_has_prefix(*text, "0x");
    char *end;

    if (!g_ascii_isdigit(**text))
        return false;
    *number = g_ascii_strtoull(*text, &end, hex ? 16 : 10);
    if (*number > G_MAXINT64 || (*end != ' ' && *end != '\t'))
        return false;
    *text = end + strspn(end, " \t");
    return true;
}

/* Takes a line "START LENGTH STATUS", which must begin where the previous one ended. */
static bool take_line(FlMapBuilder *builder, const char *line, uint64_t size)
{
    uint64_t start, length;

    return take_number(&line, &start) && take_number(&line, &length) && length > 0 &&
           start == fl_map_builder_size(builder) && length <= size - start &&
           strchr("?*/-+", *line) != NULL && *line != '\0' &&
           line[1 + strspn(line + 1, " \t\r")] == '\0' &&
           fl_map_builder_add(builder, length, *line == '+' ? FL_DIRTY : 0) == 0;
}

FlMap *fl_mapfile_parse(const char *text, gsize length, uint64_t size, GError **error)
{
    g_autoptr(FlMapBuilder) builder = fl_map_builder_new();
    g_autofree char *copy = g_strndup(text, length);
    bool ok = strlen(copy) == length, status_seen = false;
    char *rest = copy;

    for (char *line; ok && (line = strsep(&rest, "\n")) != NULL;) {
        line += strspn(line, " \t");
        if (*line == '#' || *line == '\0' || *line == '\r')
            continue;
        /* The first line of numbers is ddrescue's status line. */
        ok = !status_seen || take_line(builder, line, size);
        status_seen = true;
    }
    if (!ok || fl_map_builder_size(builder) != size) {
        fl_fail(error, "it is damaged: it does not cover %" G_GUINT64_FORMAT " bytes", size);
        return NULL;
    }
    return fl_map_builder_finish(g_steal_pointer(&builder));
}
