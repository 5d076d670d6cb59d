/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "map/times.h"

#include <string.h>

/* A run of pieces; it starts where the previous one ends. */
typedef struct {
    uint64_t end; /* piece */
    struct timespec since;
} Run;

struct FlTimes {
    uint64_t disk_size, piece_size, count;
    GArray *runs; /* of Run */
};

static FlTimes *new_times(uint64_t disk_size, uint64_t piece_size)
{
    FlTimes *times = g_new(FlTimes, 1);

    *times = (FlTimes){.disk_size = disk_size,
                       .piece_size = piece_size,
                       .count = (disk_size - 1) / piece_size + 1,
                       .runs = g_array_new(FALSE, FALSE, sizeof(Run))};
    return times;
}

void fl_times_free(FlTimes *times)
{
    if (times == NULL)
        return;
    g_array_unref(times->runs);
    g_free(times);
}

static uint64_t end_of(const FlTimes *times)
{
    return times->runs->len > 0 ? g_array_index(times->runs, Run, times->runs->len - 1).end : 0;
}

/* Appends a run up to END, unless the runs already reach that far. */
static void add(FlTimes *times, uint64_t end, struct timespec since)
{
    Run run = {.end = end, .since = since};
    Run *last;

    if (end <= end_of(times))
        return;
    last = times->runs->len > 0 ? &g_array_index(times->runs, Run, times->runs->len - 1) : NULL;
    if (last != NULL && last->since.tv_sec == since.tv_sec && last->since.tv_nsec == since.tv_nsec)
        last->end = end;
    else
        g_array_append_val(times->runs, run);
}

/* The run that holds piece INDEX. */
static guint find(const FlTimes *times, uint64_t index)
{
    guint low = 0, high = times->runs->len - 1;

    while (low < high) {
        guint middle = low + (high - low) / 2;

        if (g_array_index(times->runs, Run, middle).end > index)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Appends the pieces up to END with their times in LAST. */
static void keep(FlTimes *times, const FlTimes *last, uint64_t end)
{
    for (guint i = end_of(times) < end ? find(last, end_of(times)) : last->runs->len;
         i < last->runs->len && end_of(times) < end; i++) {
        const Run *run = &g_array_index(last->runs, Run, i);

        add(times, MIN(run->end, end), run->since);
    }
}

static bool is_later(struct timespec a, struct timespec b)
{
    return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec);
}

struct timespec fl_times_latest(const FlTimes *times)
{
    struct timespec latest = g_array_index(times->runs, Run, 0).since;

    for (guint i = 1; i < times->runs->len; i++) {
        struct timespec since = g_array_index(times->runs, Run, i).since;

        if (is_later(since, latest))
            latest = since;
    }
    return latest;
}

bool fl_times_fit(const FlTimes *last, uint64_t disk_size, uint64_t piece_size, struct timespec now,
                  const char **why)
{
    if (last->disk_size != disk_size) {
        *why = "the disk had another size";
        return false;
    }
    if (last->piece_size != piece_size) {
        *why = "its pieces had another size";
        return false;
    }
    if (fl_times_latest(last).tv_sec >= now.tv_sec) {
        *why = "they have a later time";
        return false;
    }
    return true;
}

FlTimes *fl_times_next(const FlTimes *last, const FlMap *dirty, uint64_t disk_size,
                       uint64_t piece_size, struct timespec now)
{
    FlTimes *times = new_times(disk_size, piece_size);
    const char *why;

    if (last == NULL || dirty == NULL || fl_map_size(dirty) != disk_size ||
        !fl_times_fit(last, disk_size, piece_size, now, &why)) {
        add(times, times->count, now);
        return times;
    }
    for (size_t i = 0; i < fl_map_count(dirty); i++) {
        FlExtent extent = fl_map_get(dirty, i);

        if ((extent.type & FL_DIRTY) == 0)
            continue;
        keep(times, last, extent.start / piece_size);
        add(times, (extent.end - 1) / piece_size + 1, now);
    }
    keep(times, last, times->count);
    return times;
}

bool fl_times_is_dirty(const FlMap *dirty, uint64_t start, uint64_t end)
{
    FlExtent extent = fl_map_get(dirty, fl_map_find(dirty, start));

    /* Adjacent extents differ: one that follows a clean extent is dirty. */
    return (extent.type & FL_DIRTY) != 0 || extent.end < end;
}

bool fl_times_may_follow(const FlTimes *last, const FlTimes *shown, const FlMap *dirty)
{
    struct timespec latest = fl_times_latest(last);
    uint64_t index = 0;

    if (shown->disk_size != last->disk_size || shown->piece_size != last->piece_size)
        return false;
    for (guint i = 0; i < shown->runs->len; i++) {
        const Run *run = &g_array_index(shown->runs, Run, i);

        for (; index < run->end && is_later(run->since, latest); index++) {
            uint64_t start = index * last->piece_size;

            if (!fl_times_is_dirty(dirty, start, MIN(start + last->piece_size, last->disk_size)))
                return false;
        }
        index = run->end;
    }
    return true;
}

bool fl_times_share_second(const FlTimes *a, const FlTimes *b)
{
    g_autoptr(GHashTable) seconds =
        g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    bool found = false;

    for (guint i = 0; i < a->runs->len; i++) {
        gint64 second = g_array_index(a->runs, Run, i).since.tv_sec;

        g_hash_table_add(seconds, g_memdup2(&second, sizeof second));
    }
    for (guint i = 0; i < b->runs->len && !found; i++) {
        gint64 second = g_array_index(b->runs, Run, i).since.tv_sec;

        found = g_hash_table_contains(seconds, &second);
    }
    return found;
}

uint64_t fl_times_disk_size(const FlTimes *times)
{
    return times->disk_size;
}

uint64_t fl_times_piece_size(const FlTimes *times)
{
    return times->piece_size;
}

struct timespec fl_times_get(const FlTimes *times, uint64_t index)
{
    return g_array_index(times->runs, Run, find(times, index)).since;
}

void fl_times_print(const FlTimes *times, GString *text)
{
    for (guint i = 0; i < times->runs->len; i++) {
        const Run *run = &g_array_index(times->runs, Run, i);

        g_string_append_printf(text, "%" G_GUINT64_FORMAT " %" G_GINT64_FORMAT ".%09ld\n", run->end,
                               (gint64)run->since.tv_sec, run->since.tv_nsec);
    }
}

FlTimes *fl_times_parse(const char *text, uint64_t disk_size, uint64_t piece_size)
{
    g_autoptr(FlTimes) times = NULL;
    g_autoptr(GString) again = g_string_new(NULL);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    if (disk_size == 0 || piece_size == 0)
        return NULL;
    times = new_times(disk_size, piece_size);
    for (char **line = lines; *line != NULL && **line != '\0'; line++) {
        char *at;
        uint64_t end = g_ascii_strtoull(*line, &at, 10);
        gint64 seconds = g_ascii_strtoll(at, &at, 10);
        guint64 ns = *at == '.' ? g_ascii_strtoull(at + 1, NULL, 10) : G_MAXUINT64;

        if (end > times->count || ns > 999999999)
            return NULL;
        add(times, end, (struct timespec){.tv_sec = seconds, .tv_nsec = (long)ns});
    }
    /* Accept only canonical text: printing the result must reproduce it. */
    fl_times_print(times, again);
    if (end_of(times) != times->count || !g_str_equal(again->str, text))
        return NULL;
    return g_steal_pointer(&times);
}
