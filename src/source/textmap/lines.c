/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "formats.h"

#include <string.h>

/* Calls TAKE for each line, without its newline. */
static bool each_line(FlRanges *ranges, const char *text, size_t length,
                      bool (*take)(FlRanges *ranges, const char *at, const char *end, void *opaque),
                      void *opaque)
{
    const char *end = text + length;

    for (ranges->line = 1; text < end; ranges->line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        const char *last = stop != NULL ? stop : end;

        if (last > text && last[-1] == '\r')
            last--;
        if (!take(ranges, text, last, opaque))
            return false;
        text = stop != NULL ? stop + 1 : end;
    }
    return true;
}

static void skip_blanks(const char **at, const char *end)
{
    while (*at < end && (**at == ' ' || **at == '\t'))
        ++*at;
}

/* Parses N numbers, with blanks before each and after the last. */
static bool take_numbers(const char **at, const char *end, bool hex, uint64_t *numbers, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const char *start = *at;

        skip_blanks(at, end);
        if ((i > 0 && *at == start) || !fl_ranges_number(at, end, hex, &numbers[i]))
            return false;
    }
    if (*at < end && **at != ' ' && **at != '\t')
        return false;
    skip_blanks(at, end);
    return true;
}

/* Quotes the rest of a line from AT on, for a message. */
static char *quote(const char *at, const char *end)
{
    g_autofree char *text = g_strndup(at, (size_t)MIN(end - at, 40));

    return g_strescape(text, NULL);
}

static bool take_extent(FlRanges *ranges, const char *at, const char *end, void *opaque)
{
    static const char *const words[] = {"clean", "dirty"};
    const char *line = at;
    uint64_t extent[3];

    if (!take_numbers(&at, end, false, extent, G_N_ELEMENTS(extent))) {
        g_autofree char *shown = quote(line, end);

        return fl_ranges_fail(ranges, "'%s' is not OFFSET LENGTH TYPE, as nbdinfo --map prints it",
                              shown);
    }
    while (end > at && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (extent[2] > 1 || (end > at && (strlen(words[extent[2]]) != (size_t)(end - at) ||
                                       memcmp(words[extent[2]], at, (size_t)(end - at)) != 0))) {
        g_autofree char *shown = quote(at, end);

        return fl_ranges_fail(ranges,
                              "type %" G_GUINT64_FORMAT
                              " '%s' is not a type of a dirty bitmap: print its map with nbdinfo "
                              "--map=qemu:dirty-bitmap:NAME",
                              extent[2], shown);
    }
    return fl_ranges_add_next(ranges, extent[0], extent[1], extent[2] == 1);
}

bool fl_textmap_lines(FlRanges *ranges, const char *text, size_t length)
{
    return each_line(ranges, text, length, take_extent, NULL) && fl_ranges_end(ranges, true);
}

/* Takes a data line or, the first time, the status line. */
static bool take_block(FlRanges *ranges, const char *at, const char *end, void *opaque)
{
    static const char statuses[] = "?*/-+", current[] = "?*/-+FG";
    bool *has_status = opaque;
    const char *line = at;
    g_autofree char *shown = NULL;
    uint64_t block[2], pass;

    skip_blanks(&at, end);
    if (at == end || *at == '#')
        return true;
    if (!*has_status) {
        *has_status = take_numbers(&at, end, true, block, 1) && at < end &&
                      strchr(current, *at++) != NULL &&
                      (at == end || take_numbers(&at, end, false, &pass, 1)) && at == end;
        if (*has_status)
            return true;
        shown = quote(line, end);
        return fl_ranges_fail(ranges, "'%s' is not the status line of a ddrescue mapfile", shown);
    }
    if (take_numbers(&at, end, true, block, G_N_ELEMENTS(block)) && at < end && *at != '\0' &&
        strchr(statuses, *at) != NULL) {
        bool dirty = *at++ == '+';

        skip_blanks(&at, end);
        if (at == end)
            return fl_ranges_add_next(ranges, block[0], block[1], dirty);
    }
    shown = quote(line, end);
    return fl_ranges_fail(ranges, "'%s' is not POS SIZE STATUS, as in a ddrescue mapfile", shown);
}

bool fl_textmap_ddrescue(FlRanges *ranges, const char *text, size_t length)
{
    bool has_status = false;

    return each_line(ranges, text, length, take_block, &has_status) && fl_ranges_end(ranges, true);
}
