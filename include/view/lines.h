/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Text files with one line per extent; only the lines that are read are generated.
 *
 * A kind of file locates the line at a file offset (start) and formats lines (next); this code cuts
 * the output to the requested range.
 */
#pragma once

#include "map/join.h"
#include "view/view.h"

/* Maximum length of a line from next(), in bytes. */
#define FL_LINE_MAX 256

/* Position in the file. The next line starts at file offset AT; the other fields belong to the kind
 * of file. */
typedef struct {
    uint64_t at;
    size_t index;
    FlJoin join;
} FlLineCursor;

typedef struct FlLines FlLines;

typedef struct {
    /* Sets CURSOR (zeroed before) to a line that starts at or before OFFSET, preferably the one
     * that holds it. OFFSET is below the size. */
    void (*start)(const FlLines *lines, FlLineCursor *cursor, uint64_t offset);
    /* Writes the line at CURSOR, advances CURSOR (except AT) and returns the length of the line, 1
     * to FL_LINE_MAX. A line exists as long as AT is below the size. */
    size_t (*next)(const FlLines *lines, FlLineCursor *cursor, char *line);
} FlLinesOps;

/* Every kind embeds this as its first member. Its FlViewOps are fl_text_piece(), fl_lines_make()
 * and a clear function. */
struct FlLines {
    FlView view;
    const FlLinesOps *ops;
};

/* FlViewOps.make */
void fl_lines_make(const FlView *view, void *buf, size_t length, uint64_t offset);
