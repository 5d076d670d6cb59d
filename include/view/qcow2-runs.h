/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sets of numbers, stored as runs, with rank and select.
 *
 * The rank of a member is the number of smaller members. Data clusters of an image are in guest
 * order, so the rank of a guest cluster is its position in the file. A set takes 16 bytes per run;
 * both operations are a binary search.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A run. Its length is the difference between the rank of the next run and its own. */
typedef struct {
    uint64_t first; /* member */
    uint64_t rank;  /* of the first member */
} FlRun;

/* Built by one thread, then readable by any. All zeros is an empty set. */
typedef struct {
    FlRun *run;
    size_t count, room;
    uint64_t total; /* members */
} FlRuns;

void fl_runs_clear(FlRuns *runs);

/* Adds [FIRST, END). FIRST must not be below the start of the last run; the range may overlap or
 * touch that run, which then grows. */
void fl_runs_add(FlRuns *runs, uint64_t first, uint64_t end);

/* Frees the spare memory left by adding. */
void fl_runs_trim(FlRuns *runs);

static inline uint64_t fl_runs_length(const FlRuns *runs, size_t index)
{
    return (index + 1 < runs->count ? runs->run[index + 1].rank : runs->total) -
           runs->run[index].rank;
}

/* The end of run INDEX, exclusive. */
static inline uint64_t fl_runs_end(const FlRuns *runs, size_t index)
{
    return runs->run[index].first + fl_runs_length(runs, index);
}

/* The index of the first run that ends after NUMBER: the run that holds it, or the next one; count
 * if there is none. */
size_t fl_runs_find(const FlRuns *runs, uint64_t number);

/* The index of the run that holds the member with rank RANK, which is below the total. */
size_t fl_runs_select(const FlRuns *runs, uint64_t rank);
