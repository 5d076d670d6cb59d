/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sets of numbers, kept as runs, with rank and select.
 *
 * The rank of a member is how many members are smaller: where the data clusters of an image follow
 * each other in the order of the guest, the rank of a guest cluster is its place in the file. A set
 * takes 16 bytes a run; both ways are a binary search.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* It goes on as long as ranks do: up to the rank at which the next run starts. */
typedef struct {
    uint64_t first; /* member */
    uint64_t rank;  /* of the first member */
} FlRun;

/* Built by one thread; then read by any. Zeroed is empty. */
typedef struct {
    FlRun *run;
    size_t count, room;
    uint64_t total; /* members */
} FlRuns;

void fl_runs_clear(FlRuns *runs);

/* Adds [FIRST, END), of which a first part may be in the set already; FIRST is at or above the
 * start of the last run. A range that touches the last run makes it longer. */
void fl_runs_add(FlRuns *runs, uint64_t first, uint64_t end);

/* Gives back the memory that adding took in advance. */
void fl_runs_trim(FlRuns *runs);

static inline uint64_t fl_runs_length(const FlRuns *runs, size_t index)
{
    return (index + 1 < runs->count ? runs->run[index + 1].rank : runs->total) -
           runs->run[index].rank;
}

/* The end (the first number after it) of run INDEX. */
static inline uint64_t fl_runs_end(const FlRuns *runs, size_t index)
{
    return runs->run[index].first + fl_runs_length(runs, index);
}

/* The index of the first run that ends after NUMBER: the run holding it, or the next one; count if
 * there is none. */
size_t fl_runs_find(const FlRuns *runs, uint64_t number);

/* The index of the run that holds the member of this RANK, which is below the total. */
size_t fl_runs_select(const FlRuns *runs, uint64_t rank);
