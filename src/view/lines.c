/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/lines.h"

#include <string.h>

void fl_lines_make(const FlView *view, void *buf, size_t length, uint64_t offset)
{
    const FlLines *lines = (const FlLines *)view;
    uint64_t end = offset + length;
    FlLineCursor cursor = {0};
    char line[FL_LINE_MAX];

    if (length == 0)
        return;
    lines->ops->start(lines, &cursor, offset);
    while (cursor.at < end) {
        uint64_t at = cursor.at;
        size_t n;

        if (at >= offset && end - at >= FL_LINE_MAX) {
            /* The common case: no copy. */
            n = lines->ops->next(lines, &cursor, (char *)buf + (at - offset));
        } else {
            n = lines->ops->next(lines, &cursor, line);
            uint64_t from = MAX(at, offset), to = MIN(at + n, end);
            if (from < to)
                memcpy((char *)buf + (from - offset), line + (from - at), to - from);
        }
        cursor.at += n;
    }
}
