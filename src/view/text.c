/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/text.h"

#include <string.h>

FlPiece fl_text_piece(const FlView *view, uint64_t offset)
{
    return (FlPiece){.kind = FL_PIECE_MADE, .start = offset, .end = view->size};
}

char *fl_put_text(char *out, const char *text)
{
    return mempcpy(out, text, strlen(text));
}
