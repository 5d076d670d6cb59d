/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/textmap/textmap.h"

#include "formats.h"

#include <string.h>

typedef bool (*Format)(FlRanges *ranges, const char *text, size_t length);

/* Whether the first non-comment line is that of a mapfile: a number and a character. */
static bool is_mapfile(const char *text, const char *end)
{
    uint64_t number;

    if (text < end && *text == '#')
        return true;
    if (!fl_ranges_number(&text, end, true, &number))
        return false;
    while (text < end && (*text == ' ' || *text == '\t'))
        text++;
    return text < end && *text != '\n' && !g_ascii_isdigit(*text);
}

static Format format_of(const char *text, const char *end)
{
    while (text < end && g_ascii_isspace(*text))
        text++;
    if (text < end && *text == '<')
        return fl_textmap_thin;
    if (text < end && *text == '[')
        return fl_textmap_json;
    return is_mapfile(text, end) ? fl_textmap_ddrescue : fl_textmap_lines;
}

FlMap *fl_textmap_parse(const char *text, size_t length, uint64_t size, const char *file,
                        GError **error)
{
    g_autoptr(FlMapBuilder) builder = fl_map_builder_new();
    FlRanges ranges = {.file = file, .line = 1, .size = size, .builder = builder, .error = error};

    if (length == 0) {
        fl_fail(error, "%s is empty", file);
        return NULL;
    }
    if (!format_of(text, text + length)(&ranges, text, length))
        return NULL;
    return fl_map_builder_finish(g_steal_pointer(&builder));
}
