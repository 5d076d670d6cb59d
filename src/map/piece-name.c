/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "map/piece-name.h"

#include <inttypes.h>
#include <stdio.h>

void fl_piece_name(char name[static FL_PIECE_NAME_MAX], uint64_t index)
{
    snprintf(name, FL_PIECE_NAME_MAX, "%06" PRIu64, index);
}

bool fl_piece_name_parse(const char *name, uint64_t count, uint64_t *index)
{
    char spelled[FL_PIECE_NAME_MAX];
    guint64 n;

    if (!g_ascii_string_to_unsigned(name, 10, 0, count - 1, &n, NULL))
        return false;
    fl_piece_name(spelled, n);
    if (!g_str_equal(spelled, name))
        return false;
    *index = n;
    return true;
}
