/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "blockstatus.h"
#include "map/context.h"
#include "pread.h"
#include "util/size.h"
#include "walk.h"

#include <string.h>

#define ALLOCATION FL_CONTEXT_NAME_ALLOCATION
#define SAMPLES    16
#define ZEROS      4096u

/*
 * Whether a map of a disk may change from KNOWN to NOW without a change of the disk. Allocation
 * does not affect the contents: what a fleecing server copies before a write is data from then on,
 * and a range of a file that was preallocated but never written is data while it is in the page
 * cache of the server's host.
 */
static bool is_type_kept(bool allocation, uint32_t known, uint32_t now)
{
    return known == now || allocation;
}

/* Whether PART, which maps the disk from START on, agrees with MAP there. For base:allocation, ZERO
 * gets the first range, if any, that was known to be zero and may no longer be. */
static bool agrees(const FlMap *map, const FlMap *part, uint64_t start, bool allocation,
                   FlSpan *zero)
{
    for (size_t i = 0; i < fl_map_count(part); i++) {
        FlExtent now = fl_map_get(part, i), known;
        size_t index = fl_map_find(map, start + now.start);

        do {
            known = fl_map_get(map, index++);
            if (!is_type_kept(allocation, known.type, now.type))
                return false;
            if (allocation && zero->end == 0 && (known.type & ~now.type & FL_ALLOC_ZERO) != 0)
                *zero = (FlSpan){.start = MAX(known.start, start + now.start),
                                 .end = MIN(known.end, start + now.end)};
        } while (known.end < start + now.end);
    }
    return true;
}

/* Returns the blocks at the start of RANGE to read; empty if it does not contain a whole block. */
static FlSpan first_blocks(FlSpan range, uint32_t block)
{
    uint64_t start = fl_div_up(range.start, block) * block;
    uint64_t end = range.end / block * block;

    if (range.end == 0 || start >= end)
        return (FlSpan){0};
    return (FlSpan){.start = start, .end = MIN(end, start + MAX(ZEROS, block))};
}

/* Whether the first blocks of RANGES, which were known to be zero, still are. */
static bool are_zero(struct nbd_handle *nbd, const FlSpan ranges[SAMPLES], const FlWait *wait,
                     GError **error)
{
    uint32_t block = (uint32_t)CLAMP(nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM), 1, 1 << 16);
    FlSpan spans[SAMPLES];
    void *bytes[SAMPLES];
    bool zero = true;

    for (guint i = 0; i < SAMPLES; i++)
        spans[i] = first_blocks(ranges[i], block);
    if (!fl_pread_spans(nbd, spans, SAMPLES, bytes, wait, error))
        return false;
    for (guint i = 0; i < SAMPLES; i++) {
        g_autofree const char *read = bytes[i];
        uint64_t length = spans[i].end - spans[i].start;

        zero = zero && (length == 0 || (*read == 0 && memcmp(read, read + 1, length - 1) == 0));
    }
    return zero || fl_fail_changed(error, "bytes that its map reports as zero have changed");
}

/* Removes base:allocation from CONTEXTS, of N, if the server does not have it. Fails if it lacks
 * another one. */
static bool keep_available(struct nbd_handle *nbd, const char **contexts, guint *n, GError **error)
{
    guint kept = 0;

    for (guint i = 0; contexts[i] != NULL; i++) {
        if (nbd_can_meta_context(nbd, contexts[i]) > 0)
            contexts[kept++] = contexts[i];
        else if (!g_str_equal(contexts[i], ALLOCATION))
            return fl_fail_changed(error, "the meta context %s is missing", contexts[i]);
    }
    contexts[kept] = NULL;
    *n = kept;
    return true;
}

/* Sets RANGES to starts of extents, spread over the N maps KNOWN. */
static void choose_samples(const FlMap *const *known, guint n, FlSpan ranges[SAMPLES])
{
    for (guint i = 0; i < SAMPLES; i++) {
        const FlMap *map = known[i % n];
        FlExtent e = fl_map_get(map, fl_map_count(map) * i / SAMPLES);
        ranges[i] = (FlSpan){.start = e.start, .end = MIN(e.end, e.start + FL_WALK_REQUEST_MAX)};
    }
}

bool fl_block_status_verify(struct nbd_handle *nbd, const FlDiskMaps *maps, const FlWait *wait,
                            GError **error)
{
    g_autofree const char **contexts = fl_disk_maps_contexts(maps);
    g_autofree const FlMap **known = NULL;
    FlSpan ranges[SAMPLES], zeros[SAMPLES] = {0};
    FlMapBuilder **builders;
    const char *changed = NULL;
    FlMapsUse use = {0};
    FlWait fixed = *wait;
    guint n = 0;
    bool refused;

    if (!keep_available(nbd, contexts, &n, error))
        return false;
    known = g_new0(const FlMap *, n);
    for (guint i = 0; i < n; i++)
        known[i] = fl_disk_maps_find(maps, contexts[i]);
    if (n == 0 || fl_map_size(known[0]) == 0)
        return true;
    choose_samples(known, n, ranges);
    builders = fl_walk(nbd, contexts, ranges, SAMPLES, &use, &refused, &fixed, error);
    if (builders == NULL) {
        /* The error may be transient; let the next connection decide. */
        if (refused && error != NULL)
            (*error)->code = FL_ERROR_LOST;
        return false;
    }
    for (guint i = 0; i < SAMPLES * n; i++) {
        g_autoptr(FlMap) part = fl_map_builder_finish(builders[i]);
        if (!agrees(known[i % n], part, ranges[i / n].start,
                    g_str_equal(contexts[i % n], ALLOCATION), &zeros[i / n]))
            changed = contexts[i % n];
    }
    g_free(builders);
    if (changed != NULL)
        return fl_fail_changed(error, "its map %s has changed", changed);
    return are_zero(nbd, zeros, wait, error);
}
