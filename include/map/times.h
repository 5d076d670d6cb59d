/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Since when each piece of a disk has been as it is now.
 *
 * The rule that a series of backups goes by: a piece that may have changed since the last one is of
 * this point in time, any other is of the time that it had. Whoever knows nothing of the last one,
 * or cannot trust what he knows, takes all pieces for changed: that costs reading, and nothing
 * else. Kept as runs. Immutable; pure.
 */
#pragma once

#include "map/map.h"

#include <time.h>

typedef struct FlTimes FlTimes;

void fl_times_free(FlTimes *times); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlTimes, fl_times_free)

/*
 * The times at the point in time NOW of a disk of DISK_SIZE bytes (not 0) in pieces of PIECE_SIZE.
 * LAST are those of the last backup, DIRTY what has changed since it; either may be NULL: all
 * pieces are of NOW, as they are where LAST is of another size, or not before NOW.
 */
FlTimes *fl_times_next(const FlTimes *last, const FlMap *dirty, uint64_t disk_size,
                       uint64_t piece_size, struct timespec now);
/* Whether LAST can count for such a disk; WHY (a sentence's end) is set if not. */
bool fl_times_fit(const FlTimes *last, uint64_t disk_size, uint64_t piece_size, struct timespec now,
                  const char **why);

/* The latest of all. */
struct timespec fl_times_latest(const FlTimes *times);
uint64_t fl_times_disk_size(const FlTimes *times);
uint64_t fl_times_piece_size(const FlTimes *times);
/* Of piece INDEX, below the number of pieces. */
struct timespec fl_times_get(const FlTimes *times, uint64_t index);

/* Lines "END SECONDS.NANOSECONDS", one a run of pieces that ends before piece END. */
void fl_times_print(const FlTimes *times, GString *text);
/* Reads exactly what fl_times_print() writes; NULL if TEXT is anything else. */
FlTimes *fl_times_parse(const char *text, uint64_t disk_size, uint64_t piece_size);
