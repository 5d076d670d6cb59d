/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ranges that a text tells of, in order, on their way into a map. Private to source/textmap/.
 *
 * Whatever is wrong is an error that names file and line; after one, nothing may be added.
 */
#pragma once

#include "map/map.h"

typedef struct {
    const char *file;   /* for messages */
    unsigned long line; /* that is being read; from 1 on */
    uint64_t size;      /* bytes of the disk */
    FlMapBuilder *builder;
    GError **error;
} FlRanges;

/* Sets the error: "FILE, line N: ...". Returns false. */
bool fl_ranges_fail(FlRanges *ranges, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Adds [START, START + LENGTH), which lies behind all that were added, and not past the disk's end.
 * What is in between is clean. */
bool fl_ranges_add(FlRanges *ranges, uint64_t start, uint64_t length, bool dirty);
/* The same of a format that tells of the whole disk: nothing may be in between. */
bool fl_ranges_add_next(FlRanges *ranges, uint64_t start, uint64_t length, bool dirty);
/* The last of it: of such a format the disk's end must have been reached. */
bool fl_ranges_end(FlRanges *ranges, bool whole);

/* Takes a number at *AT, before END: decimal, or, if HEX and after 0x, hexadecimal; up to 2^63-1.
 * False, with *AT as it was, if there is none. */
bool fl_ranges_number(const char **at, const char *end, bool hex, uint64_t *number);
