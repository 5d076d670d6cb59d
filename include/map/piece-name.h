/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File names of the pieces of a disk: 000000, 000001, ... */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Buffer size for a name with its NUL. */
#define FL_PIECE_NAME_MAX 21
/* Minimum size of a piece, except the last, in bytes; a power of two. */
#define FL_PIECE_SIZE_MIN (UINT64_C(1) << 20)

/* Writes six digits, or more if needed. */
void fl_piece_name(char name[static FL_PIECE_NAME_MAX], uint64_t index);
/* Whether NAME is the canonical name of a piece below COUNT. */
bool fl_piece_name_parse(const char *name, uint64_t count, uint64_t *index);
