/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parses sizes and durations given by users. */
#pragma once

#include "util/error.h"

#include <stdint.h>

/* Parses bytes with an optional suffix K, M, G, T, P or E (powers of 1024, also as "KiB" or "KB").
 * Anything else, or more than 2^63-1, is a usage error. */
bool fl_size_parse(const char *text, uint64_t *size, GError **error);

/* Parses whole seconds, 0 to 10^9. */
bool fl_seconds_parse(const char *text, unsigned *seconds, GError **error);

static inline bool fl_is_power_of_two(uint64_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

static inline uint64_t fl_div_up(uint64_t n, uint64_t d)
{
    return n / d + (n % d != 0);
}
