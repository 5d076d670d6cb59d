/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/qcow2-runs.h"

void fl_runs_clear(FlRuns *runs)
{
    g_free(runs->run);
    *runs = (FlRuns){0};
}

void fl_runs_add(FlRuns *runs, uint64_t first, uint64_t end)
{
    uint64_t last_end = runs->count > 0 ? fl_runs_end(runs, runs->count - 1) : 0;

    first = MAX(first, last_end);
    if (first >= end)
        return;
    if (runs->count == 0 || first != last_end) {
        if (runs->count == runs->room) {
            runs->room = runs->room == 0 ? 16 : runs->room + runs->room / 2;
            runs->run = g_renew(FlRun, runs->run, runs->room);
        }
        runs->run[runs->count++] = (FlRun){.first = first, .rank = runs->total};
    }
    runs->total += end - first;
}

void fl_runs_trim(FlRuns *runs)
{
    runs->run = g_renew(FlRun, runs->run, runs->count);
    runs->room = runs->count;
}

size_t fl_runs_find(const FlRuns *runs, uint64_t number)
{
    size_t low = 0, high = runs->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (fl_runs_end(runs, middle) > number)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

size_t fl_runs_select(const FlRuns *runs, uint64_t rank)
{
    size_t low = 0, high = runs->count - 1;

    while (low < high) {
        size_t middle = low + (high - low + 1) / 2;
        if (runs->run[middle].rank <= rank)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}
