/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "blockstatus.h"

#include "map/context.h"
#include "wait.h"
#include "walk.h"

/* Requests in flight: segments of a disk, and small ranges of it. */
#define SEGMENTS 16
#define BATCH    64

#define ALLOCATION FL_CONTEXT_NAME_ALLOCATION

static const char no_memory[] = "out of memory for the map";

/* Loads the maps of the whole disk, by context. Returns false with nothing in MAPS_OUT on
 * failure. */
static bool walk_disk(struct nbd_handle *nbd, const char *const *contexts, uint64_t size,
                      FlMapsUse *use, FlMap **maps_out, bool *refused, FlWait *wait, GError **error)
{
    guint ncontexts = g_strv_length((char **)contexts);
    guint n = (guint)CLAMP(size / FL_WALK_REQUEST_MAX, 1, SEGMENTS);
    uint64_t step = size / n / FL_WALK_REQUEST_MAX * FL_WALK_REQUEST_MAX;
    FlSpan ranges[SEGMENTS];
    FlMapBuilder **builders;
    bool ok = true;

    for (guint i = 0; i < n; i++)
        ranges[i] = (FlSpan){.start = i * step, .end = i + 1 == n ? size : (i + 1) * step};
    builders = fl_walk(nbd, contexts, ranges, n, use, refused, wait, error);
    if (builders == NULL)
        return false;
    for (guint c = 0; c < ncontexts; c++) {
        FlMapBuilder *whole = builders[c];
        for (guint i = 1; i < n; i++)
            ok = fl_map_builder_take(whole, builders[i * ncontexts + c]) == 0 && ok;
        maps_out[c] = fl_map_builder_finish(whole);
    }
    g_free(builders);
    for (guint c = 0; c < ncontexts && !ok; c++)
        g_clear_pointer(&maps_out[c], fl_map_unref);
    return ok || fl_fail(error, "%s", no_memory);
}

/* Opens a connection with the CONTEXTS that the server provides, and adds these to GIVEN. The
 * server must provide all that it lists except base:allocation; without that, everything counts as
 * data. */
static struct nbd_handle *open_with(FlEndpoint *endpoint, const FlExportInfo *info,
                                    const char *const *contexts, GPtrArray *given,
                                    const FlWait *wait, GError **error)
{
    struct nbd_handle *nbd = fl_endpoint_open(endpoint, info->name, contexts, wait, error);
    const char *missing = NULL;

    if (nbd == NULL)
        return NULL;
    for (; *contexts != NULL; contexts++) {
        if (nbd_can_meta_context(nbd, *contexts) > 0)
            g_ptr_array_add(given, (gpointer)*contexts);
        else if (!g_str_equal(*contexts, ALLOCATION))
            missing = *contexts;
    }
    g_ptr_array_add(given, NULL);
    if (nbd_get_size(nbd) != (int64_t)info->size)
        fl_fail_changed(error, "its size has changed");
    else if (missing != NULL)
        fl_fail_changed(error, "the server lists meta context %s but does not provide it", missing);
    else
        return nbd;
    fl_nbd_close(nbd);
    return NULL;
}

static bool load_together(FlEndpoint *endpoint, const FlExportInfo *info,
                          const char *const *contexts, FlMapsUse *use, FlMap **maps, bool *refused,
                          FlWait *wait, GError **error)
{
    g_autoptr(GPtrArray) given = g_ptr_array_new();
    struct nbd_handle *nbd = open_with(endpoint, info, contexts, given, wait, error);
    g_autofree FlMap **loaded = NULL;
    bool ok;

    *refused = false;
    if (nbd == NULL)
        return false;
    loaded = g_new0(FlMap *, given->len);
    ok = given->len == 1 || walk_disk(nbd, (const char *const *)given->pdata, info->size, use,
                                      loaded, refused, wait, error);
    if (ok)
        fl_endpoint_keep(endpoint, info->name, nbd);
    else
        fl_nbd_close(nbd);
    for (guint i = 0, next = 0; ok && contexts[i] != NULL; i++) {
        if (contexts[i] == given->pdata[next])
            maps[i] = loaded[next++];
        else
            maps[i] = fl_map_new_uniform(info->size, 0);
    }
    return ok;
}

/* Returns the union of what A and B mark dirty. */
static FlMap *merge_dirty(const FlMap *a, const FlMap *b)
{
    FlMapBuilder *merged = fl_map_builder_new();

    for (size_t ia = 0, ib = 0; ia < fl_map_count(a);) {
        FlExtent ea = fl_map_get(a, ia), eb = fl_map_get(b, ib);
        uint64_t end = MIN(ea.end, eb.end);

        fl_map_builder_add(merged, end - fl_map_builder_size(merged),
                           (ea.type | eb.type) & FL_DIRTY);
        ia += ea.end == end;
        ib += eb.end == end;
    }
    return fl_map_builder_finish(merged);
}

/* Returns the union of what the bitmaps [from, to) mark dirty. Divides and conquers, so that many
 * bitmaps cost no more than their extents. */
static FlMap *dirty_union(const FlDiskMaps *maps, guint from, guint to, uint64_t size)
{
    g_autoptr(FlMap) left = NULL;
    g_autoptr(FlMap) right = NULL;

    if (to - from > 1) {
        left = dirty_union(maps, from, from + (to - from) / 2, size);
        right = dirty_union(maps, from + (to - from) / 2, to, size);
    } else {
        left = fl_map_new_uniform(size, 0);
        right = to > from && fl_context_bitmap(maps->contexts->pdata[from]) != NULL
                    ? fl_map_ref(maps->maps->pdata[from])
                    : fl_map_ref(left);
    }
    return merge_dirty(left, right);
}

/* Appends base:allocation to WHOLE for a batch of extents of DIRTY, starting at FIRST: queried for
 * dirty extents, data for the others. Returns the index of the next extent; 0 on failure. */
static size_t load_dirty_batch(struct nbd_handle *nbd, const FlMap *dirty, size_t first,
                               FlMapsUse *use, FlMapBuilder *whole, const FlWait *wait,
                               GError **error)
{
    static const char *const contexts[] = {ALLOCATION, NULL};
    g_autofree FlMapBuilder **builders = NULL;
    FlSpan ranges[BATCH];
    FlWait fixed = *wait; /* the caller moves it on */
    size_t end = first;
    guint n = 0;
    bool refused, ok = true;

    fixed.lap = 0;

    for (; end < fl_map_count(dirty) && n < BATCH; end++) {
        FlExtent e = fl_map_get(dirty, end);
        if (e.type & FL_DIRTY)
            ranges[n++] = (FlSpan){.start = e.start, .end = e.end};
    }
    if (n > 0) {
        builders = fl_walk(nbd, contexts, ranges, n, use, &refused, &fixed, error);
        if (builders == NULL)
            return 0;
    }
    n = 0;
    for (size_t i = first; i < end; i++) {
        FlExtent e = fl_map_get(dirty, i);
        if (e.type & FL_DIRTY)
            ok = fl_map_builder_take(whole, builders[n++]) == 0 && ok;
        else
            ok = fl_map_builder_add(whole, e.end - e.start, 0) == 0 && ok;
    }
    return ok || fl_fail(error, "%s", no_memory) ? end : 0;
}

/* Loads base:allocation from a server that refuses clean ranges, as QEMU's snapshot-access over a
 * copy-before-write filter with a bitmap does. Queries dirty ranges and treats the rest as data. */
static FlMap *load_dirty_allocation(FlEndpoint *endpoint, const FlExportInfo *info,
                                    const FlDiskMaps *bitmaps, FlMapsUse *use, FlWait *wait,
                                    GError **error)
{
    static const char *const contexts[] = {ALLOCATION, NULL};
    g_autoptr(FlMap) dirty = NULL;
    g_autoptr(FlMapBuilder) whole = fl_map_builder_new();
    g_autoptr(GPtrArray) given = g_ptr_array_new();
    struct nbd_handle *nbd;
    size_t next = 0;
    FlLap lap;

    /* The union takes as much memory again, and once more while it is built. */
    if (use->bytes > FL_MAPS_MAX / 3) {
        fl_fail(error, "the bitmaps have too many extents");
        return NULL;
    }
    dirty = dirty_union(bitmaps, 0, bitmaps->contexts->len, info->size);
    nbd = open_with(endpoint, info, contexts, given, wait, error);
    if (nbd == NULL)
        return NULL;
    if (given->len == 1) {
        fl_nbd_close(nbd);
        return fl_map_new_uniform(info->size, 0);
    }
    lap = fl_lap(wait, fl_map_count(dirty));
    do {
        next = load_dirty_batch(nbd, dirty, next, use, whole, &lap.wait, error);
        fl_lap_reach(&lap, next);
    } while (next > 0 && next < fl_map_count(dirty));
    *wait = lap.wait;
    fl_nbd_close(nbd);
    return next > 0 ? fl_map_builder_finish(g_steal_pointer(&whole)) : NULL;
}

/* Loads each context separately, after the server refused them together. */
static bool load_apart(FlEndpoint *endpoint, const FlExportInfo *info, FlDiskMaps *maps,
                       FlMapsUse *use, FlWait *wait, GError **error)
{
    for (guint i = 0; i < info->contexts->len; i++) {
        const char *contexts[] = {info->contexts->pdata[i], NULL};
        FlMap *map = NULL;
        bool refused;

        if (g_str_equal(contexts[0], ALLOCATION))
            continue;
        if (!load_together(endpoint, info, contexts, use, &map, &refused, wait, error)) {
            g_prefix_error(error, "%s: ", contexts[0]);
            return false;
        }
        fl_disk_maps_add(maps, contexts[0], map);
    }
    if (fl_export_info_has_context(info, ALLOCATION)) {
        FlMap *map = load_dirty_allocation(endpoint, info, maps, use, wait, error);
        if (map == NULL) {
            g_prefix_error(error, ALLOCATION ": ");
            return false;
        }
        fl_disk_maps_add(maps, ALLOCATION, map);
        maps->clean_refused = true;
    }
    return true;
}

static FlDiskMaps *load(FlEndpoint *endpoint, const FlExportInfo *info, FlMapsUse *use,
                        FlWait *wait, GError **error)
{
    g_autoptr(FlDiskMaps) maps = fl_disk_maps_new();
    guint n = info->contexts->len;
    g_autofree const char **contexts = g_new0(const char *, n + 1);
    g_autofree FlMap **loaded = g_new0(FlMap *, n);
    g_autoptr(GError) why = NULL;
    bool refused = false;

    for (guint i = 0; i < n; i++)
        contexts[i] = info->contexts->pdata[i];
    if (n == 0 || info->size == 0) {
        for (guint i = 0; i < n; i++)
            fl_disk_maps_add(maps, contexts[i], fl_map_new_uniform(0, 0));
    } else if (load_together(endpoint, info, contexts, use, loaded, &refused, wait, &why)) {
        for (guint i = 0; i < n; i++)
            fl_disk_maps_add(maps, contexts[i], loaded[i]);
    } else if (!refused) {
        g_propagate_prefixed_error(error, g_steal_pointer(&why), "block status: ");
        return NULL;
    } else if (!load_apart(endpoint, info, maps, use, wait, error)) {
        g_prefix_error(error, "block status: ");
        return NULL;
    }
    return g_steal_pointer(&maps);
}

FlDiskMaps *fl_block_status_load(FlEndpoint *endpoint, const FlExportInfo *info, const FlWait *wait,
                                 GError **error)
{
    FlMapsUse use = {.budget = fl_endpoint_budget(endpoint)};
    FlWait moving = *wait;
    FlDiskMaps *maps = load(endpoint, info, &use, &moving, error);

    fl_budget_give_back(use.budget, use.taken - (maps != NULL ? MIN(use.bytes, use.taken) : 0));
    return maps;
}
