/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ranges.h"

#include <inttypes.h>

/* Maximum bytes of memory for a map, the same as for the maps of a server's export. */
#define MAP_MAX (132u << 20)

bool fl_ranges_fail(FlRanges *ranges, const char *format, ...)
{
    g_autofree char *why = NULL;
    va_list args;

    va_start(args, format);
    why = g_strdup_vprintf(format, args);
    va_end(args);
    return fl_fail(ranges->error, "%s, line %lu: %s", ranges->file, ranges->line, why);
}

static bool add(FlRanges *ranges, uint64_t length, bool dirty)
{
    if (fl_map_builder_add(ranges->builder, length, dirty ? FL_DIRTY : 0) < 0)
        return fl_ranges_fail(ranges, "out of memory for the map");
    return fl_map_builder_bytes(ranges->builder) <= MAP_MAX ||
           fl_ranges_fail(ranges, "the map has too many extents");
}

bool fl_ranges_add(FlRanges *ranges, uint64_t start, uint64_t length, bool dirty)
{
    uint64_t known = fl_map_builder_size(ranges->builder);

    if (start < known)
        return fl_ranges_fail(ranges,
                              "offset %" PRIu64 " is below %" PRIu64 ", where the last "
                              "extent ended",
                              start, known);
    if (length == 0)
        return fl_ranges_fail(ranges, "an extent has a length of 0");
    if (start > ranges->size || length > ranges->size - start)
        return fl_ranges_fail(ranges,
                              "the extent at %" PRIu64
                              " extends beyond the end of the disk, which has %" PRIu64
                              " bytes: the map is of another disk",
                              start, ranges->size);
    return add(ranges, start - known, false) && add(ranges, length, dirty);
}

bool fl_ranges_add_next(FlRanges *ranges, uint64_t start, uint64_t length, bool dirty)
{
    uint64_t known = fl_map_builder_size(ranges->builder);

    if (start > known)
        return fl_ranges_fail(
            ranges, "the map does not cover the bytes from %" PRIu64 " to %" PRIu64, known, start);
    return fl_ranges_add(ranges, start, length, dirty);
}

bool fl_ranges_end(FlRanges *ranges, bool whole)
{
    uint64_t known = fl_map_builder_size(ranges->builder);

    if (whole && known < ranges->size)
        return fl_ranges_fail(ranges,
                              "the map ends at %" PRIu64 ", and the disk has %" PRIu64
                              " bytes: it is truncated, or of another disk",
                              known, ranges->size);
    return add(ranges, ranges->size - known, false);
}

bool fl_ranges_number(const char **at, const char *end, bool hex, uint64_t *number)
{
    const char *p = *at;
    uint64_t n = 0;
    unsigned base = 10;

    if (hex && end - p > 2 && p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
        base = 16;
        p += 2;
    }
    if (p == end || g_ascii_xdigit_value(*p) < 0)
        return false;
    for (; p < end && g_ascii_isxdigit(*p); p++) {
        unsigned digit = (unsigned)g_ascii_xdigit_value(*p);

        if (digit >= base || n > ((uint64_t)INT64_MAX - digit) / base)
            return false;
        n = n * base + digit;
    }
    *at = p;
    *number = n;
    return true;
}
