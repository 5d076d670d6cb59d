/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ranges that a text lists, in order, on their way into a map. Private to source/textmap/.
 *
 * All errors name the file and line; after an error nothing may be added.
 */
#pragma once

#include "map/map.h"

typedef struct {
    const char *file;   /* for messages */
    unsigned long line; /* current line, from 1 */
    uint64_t size;      /* bytes of the disk */
    FlMapBuilder *builder;
    GError **error;
} FlRanges;

/* Sets the error "FILE, line N: ...". Returns false. */
bool fl_ranges_fail(FlRanges *ranges, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Adds [START, START + LENGTH), which must lie after all previous ranges and within the disk. Gaps
 * are clean. */
bool fl_ranges_add(FlRanges *ranges, uint64_t start, uint64_t length, bool dirty);
/* The same for a format that covers the whole disk: no gaps are allowed. */
bool fl_ranges_add_next(FlRanges *ranges, uint64_t start, uint64_t length, bool dirty);
/* Ends the map. If WHOLE, the ranges must have reached the end of the disk. */
bool fl_ranges_end(FlRanges *ranges, bool whole);

/* Parses the number at *AT, before END: decimal or, if HEX and after 0x, hexadecimal; up to 2^63-1.
 * Returns false with *AT unchanged if there is none. */
bool fl_ranges_number(const char **at, const char *end, bool hex, uint64_t *number);
