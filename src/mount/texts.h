/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The contents of open text files, such as .fleecefs/status.json, which are generated on each open.
 *
 * The kernel does not say whose attributes it asks for: fstat(2) of an open file is answered as
 * stat(2) is. While a file is open its attributes are therefore those of the text that was opened
 * last. Otherwise tar would report that the file changed while it was read, and rsync that it is
 * shorter than it should be, and both would fail. Private to mount/; call from the loop only.
 */
#pragma once

#include "mount/tree.h"

#include <time.h>

typedef struct {
    GList link; /* in FlTexts */
    uint64_t ino;
    GBytes *bytes;
    struct timespec time; /* when it was generated */
} FlText;

typedef GQueue FlTexts; /* of FlText, the newest first */

/* Removes all that are open. */
void fl_texts_clear(FlTexts *texts);

/* Generates the text of NODE. It belongs to TEXTS until it is closed. */
FlText *fl_texts_open(FlTexts *texts, const FlNode *node);
void fl_texts_close(FlTexts *texts, FlText *text);

/* The size and the time of the text that was opened last, or, if NODE is not open, of a new one.
 * Linear in the number of open texts. */
void fl_texts_attributes(const FlTexts *texts, const FlNode *node, size_t *size_out,
                         struct timespec *time_out);
