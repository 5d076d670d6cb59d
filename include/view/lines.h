/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Text files of one line an extent, of which only the lines that are read are made.
 *
 * A kind of file says where the line of a file offset is (start) and how a line is written (next);
 * this cuts what they make to what was asked for.
 */
#pragma once

#include "map/join.h"
#include "view/view.h"

/* Longest line that next() may write, in bytes. */
#define FL_LINE_MAX 256

/* Where a reader is in the file. Its next line starts at file offset AT; the rest is the kind's
 * own. */
typedef struct {
    uint64_t at;
    size_t index;
    FlJoin join;
} FlLineCursor;

typedef struct FlLines FlLines;

typedef struct {
    /* Puts CURSOR (zeroed before) at a line that starts at or before OFFSET, best the one that
     * holds it. OFFSET is below the size. */
    void (*start)(const FlLines *lines, FlLineCursor *cursor, uint64_t offset);
    /* Writes the line at CURSOR, moves CURSOR on (but for AT) and returns the line's length, 1 to
     * FL_LINE_MAX. There is a line as long as AT is below the size. */
    size_t (*next)(const FlLines *lines, FlLineCursor *cursor, char *line);
} FlLinesOps;

/* Every kind starts with this. Its FlViewOps are fl_text_piece(), fl_lines_make() and a clear. */
struct FlLines {
    FlView view;
    const FlLinesOps *ops;
};

/* FlViewOps.make */
void fl_lines_make(const FlView *view, void *buf, size_t length, uint64_t offset);
