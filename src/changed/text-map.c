/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "text-map.h"

#include "changed/part.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Parses the number at *TEXT and advances *TEXT past it. */
static bool take_number(char **text, uint64_t *number)
{
    char *end;

    while (**text == ' ' || **text == '\t')
        (*text)++;
    if (!g_ascii_isdigit(**text))
        return false;
    errno = 0;
    *number = g_ascii_strtoull(*text, &end, 10);
    if (errno != 0 || *number > INT64_MAX)
        return false;
    *text = end;
    return true;
}

/* Adds a line "OFFSET LENGTH TYPE DESCRIPTION". END: where the previous line's range ended. */
static bool add_line(FlMapBuilder *builder, char *line, uint64_t end)
{
    uint64_t start, length, type;
    const char *word;

    if (!take_number(&line, &start) || !take_number(&line, &length) || !take_number(&line, &type) ||
        start != end || length == 0)
        return false;
    word = g_strstrip(line);
    return fl_map_builder_add(builder, length,
                              g_str_equal(word, "dirty") || g_str_equal(word, "data") ? FL_DIRTY
                                                                                      : 0) == 0;
}

FlMap *fl_text_map_read(const char *path, GError **error)
{
    g_autoptr(FlMapBuilder) builder = fl_map_builder_new();
    FILE *file = fopen(path, "re");
    g_autofree char *line = NULL;
    size_t size = 0;
    unsigned number = 0;
    bool ok = file != NULL;
    int why;

    errno = file == NULL ? errno : 0;
    while (ok && getline(&line, &size, file) >= 0) {
        number++;
        ok = add_line(builder, line, fl_map_builder_size(builder));
    }
    why = file == NULL || ferror(file) ? errno : 0;
    if (file != NULL)
        fclose(file);
    if (why != 0)
        fl_fail(error, "%s: %s", path, g_strerror(why));
    else if (!ok)
        fl_fail(error, "%s:%u: not a line of a map such as dirty/NAME.map", path, number);
    else if (number == 0)
        fl_fail(error, "%s is empty", path);
    return ok && why == 0 && number > 0 ? fl_map_builder_finish(g_steal_pointer(&builder)) : NULL;
}

typedef uint32_t Rule(uint32_t a, uint32_t b);

static FlMap *combine(const FlMap *a, const FlMap *b, Rule *rule)
{
    g_autoptr(FlMapBuilder) builder = NULL;
    uint64_t at = 0, size = fl_map_size(a);

    if (fl_map_size(b) != size)
        return NULL;
    builder = fl_map_builder_new();
    for (size_t i = 0, j = 0; at < size;) {
        FlExtent in_a = fl_map_get(a, i), in_b = fl_map_get(b, j);
        uint64_t end = MIN(in_a.end, in_b.end);

        if (fl_map_builder_add(builder, end - at, rule(in_a.type, in_b.type)) != 0)
            return NULL;
        at = end;
        i += in_a.end == end;
        j += in_b.end == end;
    }
    return fl_map_builder_finish(g_steal_pointer(&builder));
}

static uint32_t unite(uint32_t a, uint32_t b)
{
    return a | b;
}

static uint32_t mark(uint32_t a, uint32_t b)
{
    return a == 0 ? 0 : b == 0 ? FL_DIRTY : FL_DIRTY | FL_AGAIN;
}

FlMap *fl_text_map_unite(const FlMap *a, const FlMap *b)
{
    return combine(a, b, unite);
}

FlMap *fl_text_map_mark(const FlMap *a, const FlMap *b)
{
    return combine(a, b, mark);
}
