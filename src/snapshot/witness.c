/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/witness.h"

#include "map/context.h"

#include <string.h>

#define GRANULE FL_WITNESS_GRANULE
#define DIGITS  16 /* of a checksum */
/* Where data is looked for in a disk that is too large to take all: in the last part of it, and in
 * windows all over the rest, since to ask of all of a large disk takes seconds. */
#define LAST    (UINT64_C(256) << 30)
#define WINDOW  (UINT64_C(64) << 20)
#define SPREAD  12u
#define WINDOWS (1 + SPREAD)
#define TAIL    16u /* granules at the very end */

/* Granules by their index, in order, and their checksums where they are known. */
typedef struct {
    guint n;
    uint64_t index[FL_WITNESS_MOST];
    char sum[FL_WITNESS_MOST][DIGITS + 1];
} Witnesses;

static FlSpan granule_span(uint64_t index, uint64_t size)
{
    return (FlSpan){.start = index * GRANULE, .end = MIN((index + 1) * GRANULE, size)};
}

static void add_granule(Witnesses *witnesses, uint64_t index)
{
    guint at = witnesses->n;

    while (at > 0 && witnesses->index[at - 1] > index)
        at--;
    if (witnesses->n == FL_WITNESS_MOST || (at > 0 && witnesses->index[at - 1] == index))
        return;
    memmove(witnesses->index + at + 1, witnesses->index + at,
            (witnesses->n - at) * sizeof *witnesses->index);
    witnesses->index[at] = index;
    witnesses->n++;
}

/* The end of the last data below END in MAP, a map of the disk from START on; START if there is
 * none.
 */
static uint64_t last_data(const FlMap *map, uint64_t start, uint64_t end)
{
    for (size_t i = end > start ? fl_map_find(map, end - start - 1) + 1 : 0; i-- > 0;) {
        FlExtent extent = fl_map_get(map, i);

        if ((extent.type & FL_ALLOC_ZERO) == 0)
            return MIN(start + extent.end, end);
    }
    return start;
}

/* Adds the last granule with data below END, if there is one from START on; where it begins. */
static uint64_t add_last(Witnesses *witnesses, const FlMap *map, uint64_t start, uint64_t end)
{
    uint64_t data = last_data(map, start, end);

    if (data == start)
        return start;
    add_granule(witnesses, (data - 1) / GRANULE);
    return (data - 1) / GRANULE * GRANULE;
}

/* Of the last part: those at the end, at distances from it that double, and some all over it. */
static void add_of_last(Witnesses *witnesses, const FlMap *map, uint64_t start, uint64_t size)
{
    uint64_t end = size;

    for (guint i = 0; i < TAIL; i++)
        end = add_last(witnesses, map, start, end);
    for (uint64_t back = GRANULE; back < size - start; back *= 2)
        add_last(witnesses, map, start, size - back);
    for (guint i = 1; i < SPREAD; i++)
        add_last(witnesses, map, start, start + (size - start) / SPREAD * i);
}

static guint choose_windows(uint64_t size, FlSpan windows[WINDOWS])
{
    uint64_t rest = size > LAST ? (size - LAST) / GRANULE * GRANULE : 0;
    uint64_t step = rest / SPREAD / GRANULE * GRANULE;
    guint n = 0;

    windows[n++] = (FlSpan){.start = rest, .end = size};
    for (guint i = 0; i < SPREAD && step > 0; i++, n++)
        windows[n] = (FlSpan){.start = i * step, .end = i * step + MIN(step, WINDOW)};
    return n;
}

static bool choose(Witnesses *witnesses, FlConn *conn, uint64_t size, const FlWait *wait,
                   GError **error)
{
    FlSpan windows[WINDOWS];
    FlMap *maps[WINDOWS];
    guint n;

    for (uint64_t i = 0; size <= FL_WITNESS_MOST * GRANULE && i * GRANULE < size; i++)
        add_granule(witnesses, i);
    if (witnesses->n > 0 || !fl_conn_has(conn, FL_CONTEXT_NAME_ALLOCATION))
        return true;
    n = choose_windows(size, windows);
    if (!fl_conn_status(conn, FL_CONTEXT_NAME_ALLOCATION, windows, n, maps, wait, error))
        return false;
    for (guint i = 0; i < n; i++) {
        g_autoptr(FlMap) map = maps[i];

        if (i == 0)
            add_of_last(witnesses, map, windows[i].start, size);
        else
            add_last(witnesses, map, windows[i].start, windows[i].end);
    }
    return true;
}

/* Reads WITNESSES from a disk of SIZE bytes; SUMS gets their checksums. */
static bool read_sums(FlConn *conn, const Witnesses *witnesses, uint64_t size,
                      char sums[][DIGITS + 1], const FlWait *wait, GError **error)
{
    FlSpan spans[FL_WITNESS_MOST];
    void *bytes[FL_WITNESS_MOST];

    for (guint i = 0; i < witnesses->n; i++)
        spans[i] = granule_span(witnesses->index[i], size);
    if (!fl_conn_peek(conn, spans, witnesses->n, bytes, wait, error))
        return false;
    for (guint i = 0; i < witnesses->n; i++) {
        g_autofree char *sum =
            g_compute_checksum_for_data(G_CHECKSUM_SHA256, bytes[i], spans[i].end - spans[i].start);
        g_strlcpy(sums[i], sum, DIGITS + 1);
        g_free(bytes[i]);
    }
    return true;
}

static bool take(Witnesses *witnesses, FlConn *conn, uint64_t size, const FlWait *wait,
                 GError **error)
{
    return choose(witnesses, conn, size, wait, error) &&
           read_sums(conn, witnesses, size, witnesses->sum, wait, error);
}

char *fl_witness_take(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                      GError **error)
{
    static const char *const contexts[] = {FL_CONTEXT_NAME_ALLOCATION, NULL};
    FlConn *conn = fl_source_open(source, info, contexts, wait, error);
    Witnesses witnesses = {0};
    g_autoptr(GString) text = g_string_new(NULL);

    bool ok = conn != NULL && take(&witnesses, conn, info->size, wait, error);

    fl_conn_close(conn, NULL);
    if (!ok)
        return NULL;
    for (guint i = 0; i < witnesses.n; i++)
        g_string_append_printf(text, "%s%" G_GINT64_MODIFIER "x:%s", i > 0 ? "," : "",
                               witnesses.index[i], witnesses.sum[i]);
    return g_string_free(g_steal_pointer(&text), FALSE);
}

/* What does not make sense for a disk of SIZE bytes is left out. */
static void parse(Witnesses *witnesses, const char *text, uint64_t size)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);

    for (char **word = words; *word != NULL && witnesses->n < FL_WITNESS_MOST; word++) {
        char *colon = strchr(*word, ':');
        guint64 index;

        if (colon == NULL || strlen(colon + 1) != DIGITS)
            continue;
        *colon = '\0';
        if (!g_ascii_string_to_unsigned(*word, 16, 0, (size - 1) / GRANULE, &index, NULL))
            continue;
        witnesses->index[witnesses->n] = index;
        g_strlcpy(witnesses->sum[witnesses->n++], colon + 1, DIGITS + 1);
    }
}

static bool is_clean(const FlMap *map)
{
    return fl_map_bytes(map, FL_DIRTY, FL_DIRTY) == 0;
}

/* Leaves those of WITNESSES that CONTEXT says are as they were. */
static bool keep_clean(Witnesses *witnesses, FlConn *conn, uint64_t size, const char *context,
                       const FlWait *wait, GError **error)
{
    FlSpan spans[FL_WITNESS_MOST];
    FlMap *maps[FL_WITNESS_MOST];
    guint n = witnesses->n;

    for (guint i = 0; i < n; i++)
        spans[i] = granule_span(witnesses->index[i], size);
    if (!fl_conn_has(conn, context))
        return fl_fail(error, "the bitmap is not there");
    if (!fl_conn_status(conn, context, spans, n, maps, wait, error))
        return false;
    witnesses->n = 0;
    for (guint i = 0; i < n; i++) {
        g_autoptr(FlMap) map = maps[i];

        if (!is_clean(map))
            continue;
        witnesses->index[witnesses->n] = witnesses->index[i];
        memmove(witnesses->sum[witnesses->n++], witnesses->sum[i], DIGITS + 1);
    }
    return true;
}

static bool check(Witnesses *witnesses, FlConn *conn, uint64_t size, const char *context,
                  const FlWait *wait, GError **error)
{
    char now[FL_WITNESS_MOST][DIGITS + 1];

    if (!keep_clean(witnesses, conn, size, context, wait, error) ||
        !read_sums(conn, witnesses, size, now, wait, error))
        return false;
    for (guint i = 0; i < witnesses->n; i++) {
        if (strcmp(now[i], witnesses->sum[i]) != 0)
            return fl_fail_changed(error,
                                   "its bytes at %" G_GUINT64_FORMAT
                                   " are others than at the restore point, and the bitmap does not "
                                   "say so",
                                   witnesses->index[i] * GRANULE);
    }
    return true;
}

bool fl_witness_check(FlSource *source, const FlExportInfo *info, const char *witness,
                      const char *context, const FlWait *wait, GError **error)
{
    const char *const contexts[] = {context, NULL};
    Witnesses witnesses = {0};
    FlConn *conn;
    bool same;

    parse(&witnesses, witness, info->size);
    if (witnesses.n == 0)
        return true;
    conn = fl_source_open(source, info, contexts, wait, error);
    same = conn != NULL && check(&witnesses, conn, info->size, context, wait, error);
    fl_conn_close(conn, NULL);
    return same;
}
