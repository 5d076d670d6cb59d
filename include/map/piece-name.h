/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The names of the files that a disk in pieces consists of: 000000, 000001, ... */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Room for a name with its NUL. */
#define FL_PIECE_NAME_MAX 21
/* The least that a piece has, but for the last, in bytes; a power of two. */
#define FL_PIECE_SIZE_MIN (UINT64_C(1) << 20)

/* Six digits, more if needed. */
void fl_piece_name(char name[static FL_PIECE_NAME_MAX], uint64_t index);
/* Whether NAME is that of a piece below COUNT, in this very spelling. */
bool fl_piece_name_parse(const char *name, uint64_t count, uint64_t *index);
