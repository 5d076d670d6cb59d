/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For each piece of a disk, the time since when it has had its current contents.
 *
 * A series of backups follows this rule: a piece that may have changed since the last backup gets
 * the time of this one; any other keeps its time. If the times of the last backup are missing or
 * cannot be trusted, all pieces count as changed: this only costs reading. Stored as runs.
 * Immutable; pure.
 */
#pragma once

#include "map/map.h"

#include <time.h>

typedef struct FlTimes FlTimes;

void fl_times_free(FlTimes *times); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlTimes, fl_times_free)

/*
 * The times at the point in time NOW of a disk of DISK_SIZE bytes (not 0) in pieces of PIECE_SIZE.
 * LAST are the times of the last backup, DIRTY the ranges that changed since. If either is NULL, or
 * LAST has other sizes or is not before NOW, all pieces get NOW.
 */
FlTimes *fl_times_next(const FlTimes *last, const FlMap *dirty, uint64_t disk_size,
                       uint64_t piece_size, struct timespec now);
/* Whether LAST applies to such a disk; if not, WHY is set to the end of a sentence. */
bool fl_times_fit(const FlTimes *last, uint64_t disk_size, uint64_t piece_size, struct timespec now,
                  const char **why);

/* Whether the range [START, END) of the disk is dirty anywhere. */
bool fl_times_is_dirty(const FlMap *dirty, uint64_t start, uint64_t end);
/* Whether the current state may follow on SHOWN, the times of another snapshot since LAST: every
 * piece that had changed there must still be DIRTY. If not, the disk was rolled back to an older
 * state, or the pieces had another size. */
bool fl_times_may_follow(const FlTimes *last, const FlTimes *shown, const FlMap *dirty);

/* Whether a piece of A and one of B have times in the same second. */
bool fl_times_share_second(const FlTimes *a, const FlTimes *b);
/* The latest time of all pieces. */
struct timespec fl_times_latest(const FlTimes *times);
uint64_t fl_times_disk_size(const FlTimes *times);
uint64_t fl_times_piece_size(const FlTimes *times);
/* The time of piece INDEX, which is below the number of pieces. */
struct timespec fl_times_get(const FlTimes *times, uint64_t index);

/* Writes lines "END SECONDS.NANOSECONDS", one per run of pieces; the run ends before piece END. */
void fl_times_print(const FlTimes *times, GString *text);
/* Parses exactly the output of fl_times_print(); NULL if TEXT is anything else. */
FlTimes *fl_times_parse(const char *text, uint64_t disk_size, uint64_t piece_size);
