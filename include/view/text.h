/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Helpers for views of generated text: a single-piece view, and fast number formatting. */
#pragma once

#include "view/view.h"

/* FlViewOps.piece for a file that is all FL_PIECE_MADE. */
FlPiece fl_text_piece(const FlView *view, uint64_t offset);

/*
 * These functions write at OUT and return the end of what they wrote, without a NUL. They exist
 * because printf takes most of the time of reading a large map. They are inline so that BASE is a
 * constant.
 */

/* Writes VALUE in BASE (2 to 16, upper case), right-aligned in WIDTH characters and padded with PAD
 * on the left. WIDTH must be sufficient. */
static inline char *fl_put_padded(char *out, unsigned width, char pad, uint64_t value,
                                  unsigned base)
{
    unsigned at = width;

    do {
        out[--at] = "0123456789ABCDEF"[value % base];
        value /= base;
    } while (value != 0);
    while (at > 0)
        out[--at] = pad;
    return out + width;
}

/* The number of digits of VALUE in BASE. */
static inline unsigned fl_digits(uint64_t value, unsigned base)
{
    unsigned digits = 1;

    while (value >= base) {
        value /= base;
        digits++;
    }
    return digits;
}

static inline char *fl_put_decimal(char *out, uint64_t value)
{
    return fl_put_padded(out, fl_digits(value, 10), ' ', value, 10);
}

/* Writes TEXT without its NUL. */
char *fl_put_text(char *out, const char *text);
