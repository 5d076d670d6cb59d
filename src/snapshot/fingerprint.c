/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/fingerprint.h"

#include "map/context.h"

#include <string.h>

#define GRANULE FL_FINGERPRINT_GRANULE
#define DIGITS  16 /* hex digits of a checksum */
/* Where to look for data on a disk that is too large to sample whole: in its last LAST bytes, and
 * in windows spread over the rest. Querying all of a large disk takes seconds. */
#define LAST    (UINT64_C(256) << 30)
#define WINDOW  (UINT64_C(64) << 20)
#define SPREAD  12u
#define WINDOWS (1 + SPREAD)
#define TAIL    16u /* granules at the very end */

/* Granules in ascending order, and their checksums once known. */
typedef struct {
    guint n;
    uint64_t index[FL_FINGERPRINT_MAX];
    char sum[FL_FINGERPRINT_MAX][DIGITS + 1];
} Samples;

static FlSpan granule_span(uint64_t index, uint64_t size)
{
    return (FlSpan){.start = index * GRANULE, .end = MIN((index + 1) * GRANULE, size)};
}

static void add_granule(Samples *samples, uint64_t index)
{
    guint at = samples->n;

    while (at > 0 && samples->index[at - 1] > index)
        at--;
    if (samples->n == FL_FINGERPRINT_MAX || (at > 0 && samples->index[at - 1] == index))
        return;
    memmove(samples->index + at + 1, samples->index + at,
            (samples->n - at) * sizeof *samples->index);
    samples->index[at] = index;
    samples->n++;
}

/* Returns the end of the last data below END in MAP, which maps the disk from START on; START if
 * there is no data. */
static uint64_t last_data(const FlMap *map, uint64_t start, uint64_t end)
{
    for (size_t i = end > start ? fl_map_find(map, end - start - 1) + 1 : 0; i-- > 0;) {
        FlExtent extent = fl_map_get(map, i);

        if ((extent.type & FL_ALLOC_ZERO) == 0)
            return MIN(start + extent.end, end);
    }
    return start;
}

/* Adds the last granule with data below END, if there is one at or after START. Returns where that
 * granule begins, or START. */
static uint64_t add_last(Samples *samples, const FlMap *map, uint64_t start, uint64_t end)
{
    uint64_t data = last_data(map, start, end);

    if (data == start)
        return start;
    add_granule(samples, (data - 1) / GRANULE);
    return (data - 1) / GRANULE * GRANULE;
}

/* Samples the last part of the disk: granules at the very end, at doubling distances from it, and
 * spread over the part. */
static void add_of_last(Samples *samples, const FlMap *map, uint64_t start, uint64_t size)
{
    uint64_t end = size;

    for (guint i = 0; i < TAIL; i++)
        end = add_last(samples, map, start, end);
    for (uint64_t back = GRANULE; back < size - start; back *= 2)
        add_last(samples, map, start, size - back);
    for (guint i = 1; i < SPREAD; i++)
        add_last(samples, map, start, start + (size - start) / SPREAD * i);
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

static bool choose(Samples *samples, FlConn *conn, uint64_t size, const FlWait *wait,
                   GError **error)
{
    FlSpan windows[WINDOWS];
    FlMap *maps[WINDOWS];
    guint n;

    for (uint64_t i = 0; size <= FL_FINGERPRINT_MAX * GRANULE && i * GRANULE < size; i++)
        add_granule(samples, i);
    if (samples->n > 0 || !fl_conn_has(conn, FL_CONTEXT_NAME_ALLOCATION))
        return true;
    n = choose_windows(size, windows);
    if (!fl_conn_status(conn, FL_CONTEXT_NAME_ALLOCATION, windows, n, maps, wait, error))
        return false;
    for (guint i = 0; i < n; i++) {
        g_autoptr(FlMap) map = maps[i];

        if (i == 0)
            add_of_last(samples, map, windows[i].start, size);
        else
            add_last(samples, map, windows[i].start, windows[i].end);
    }
    return true;
}

/* Reads SAMPLES from a disk of SIZE bytes and stores their checksums in SUMS. */
static bool read_sums(FlConn *conn, const Samples *samples, uint64_t size, char sums[][DIGITS + 1],
                      const FlWait *wait, GError **error)
{
    FlSpan spans[FL_FINGERPRINT_MAX];
    void *bytes[FL_FINGERPRINT_MAX];

    for (guint i = 0; i < samples->n; i++)
        spans[i] = granule_span(samples->index[i], size);
    if (!fl_conn_peek(conn, spans, samples->n, bytes, wait, error))
        return false;
    for (guint i = 0; i < samples->n; i++) {
        g_autofree char *sum =
            g_compute_checksum_for_data(G_CHECKSUM_SHA256, bytes[i], spans[i].end - spans[i].start);
        g_strlcpy(sums[i], sum, DIGITS + 1);
        g_free(bytes[i]);
    }
    return true;
}

static bool take(Samples *samples, FlConn *conn, uint64_t size, const FlWait *wait, GError **error)
{
    return choose(samples, conn, size, wait, error) &&
           read_sums(conn, samples, size, samples->sum, wait, error);
}

char *fl_point_fingerprint_take(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                                GError **error)
{
    static const char *const contexts[] = {FL_CONTEXT_NAME_ALLOCATION, NULL};
    FlConn *conn = fl_source_open(source, info, contexts, wait, error);
    Samples samples = {0};
    g_autoptr(GString) text = g_string_new(NULL);

    bool ok = conn != NULL && take(&samples, conn, info->size, wait, error);

    fl_conn_close(conn, NULL);
    if (!ok)
        return NULL;
    for (guint i = 0; i < samples.n; i++)
        g_string_append_printf(text, "%s%" G_GINT64_MODIFIER "x:%s", i > 0 ? "," : "",
                               samples.index[i], samples.sum[i]);
    return g_string_free(g_steal_pointer(&text), FALSE);
}

/* Skips entries that are invalid for a disk of SIZE bytes. */
static void parse(Samples *samples, const char *text, uint64_t size)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);

    for (char **word = words; *word != NULL && samples->n < FL_FINGERPRINT_MAX; word++) {
        char *colon = strchr(*word, ':');
        guint64 index;

        if (colon == NULL || strlen(colon + 1) != DIGITS)
            continue;
        *colon = '\0';
        if (!g_ascii_string_to_unsigned(*word, 16, 0, (size - 1) / GRANULE, &index, NULL))
            continue;
        samples->index[samples->n] = index;
        g_strlcpy(samples->sum[samples->n++], colon + 1, DIGITS + 1);
    }
}

static bool is_clean(const FlMap *map)
{
    return fl_map_bytes(map, FL_DIRTY, FL_DIRTY) == 0;
}

/* Keeps only the SAMPLES that are clean in CONTEXT. */
static bool keep_clean(Samples *samples, FlConn *conn, uint64_t size, const char *context,
                       const FlWait *wait, GError **error)
{
    FlSpan spans[FL_FINGERPRINT_MAX];
    FlMap *maps[FL_FINGERPRINT_MAX];
    guint n = samples->n;

    for (guint i = 0; i < n; i++)
        spans[i] = granule_span(samples->index[i], size);
    if (!fl_conn_has(conn, context))
        return fl_fail(error, "the bitmap is missing");
    if (!fl_conn_status(conn, context, spans, n, maps, wait, error))
        return false;
    samples->n = 0;
    for (guint i = 0; i < n; i++) {
        g_autoptr(FlMap) map = maps[i];

        if (!is_clean(map))
            continue;
        samples->index[samples->n] = samples->index[i];
        memmove(samples->sum[samples->n++], samples->sum[i], DIGITS + 1);
    }
    return true;
}

static bool check(Samples *samples, FlConn *conn, uint64_t size, const char *context,
                  const FlWait *wait, GError **error)
{
    char now[FL_FINGERPRINT_MAX][DIGITS + 1];

    if (!keep_clean(samples, conn, size, context, wait, error) ||
        !read_sums(conn, samples, size, now, wait, error))
        return false;
    for (guint i = 0; i < samples->n; i++) {
        if (strcmp(now[i], samples->sum[i]) != 0)
            return fl_fail_changed(
                error,
                "its bytes at %" G_GUINT64_FORMAT
                " differ from the restore point, but the bitmap does not list them",
                samples->index[i] * GRANULE);
    }
    return true;
}

bool fl_point_fingerprint_check(FlSource *source, const FlExportInfo *info, const char *fingerprint,
                                const char *context, const FlWait *wait, GError **error)
{
    const char *const contexts[] = {context, NULL};
    Samples samples = {0};
    FlConn *conn;
    bool same;

    parse(&samples, fingerprint, info->size);
    if (samples.n == 0)
        return true;
    conn = fl_source_open(source, info, contexts, wait, error);
    same = conn != NULL && check(&samples, conn, info->size, context, wait, error);
    fl_conn_close(conn, NULL);
    return same;
}
