/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/blockstatus.h"

#include "config.h"
#include "util/size.h"

#include <errno.h>

/* A request names at most 2^32-1 bytes; kept to a multiple of every block size. */
#define REQUEST_MAX (UINT64_C(2) << 30)
#define SEGMENTS    16

#define ALLOCATION    "base:allocation"
#define BITMAP_PREFIX "qemu:dirty-bitmap:"

FlDiskMaps *fl_disk_maps_ref(FlDiskMaps *maps)
{
    g_atomic_ref_count_inc(&maps->refs);
    return maps;
}

void fl_disk_maps_unref(FlDiskMaps *maps)
{
    if (maps == NULL || !g_atomic_ref_count_dec(&maps->refs))
        return;
    g_ptr_array_unref(maps->contexts);
    g_ptr_array_unref(maps->maps);
    g_free(maps);
}

static FlDiskMaps *maps_new(void)
{
    FlDiskMaps *maps = g_new0(FlDiskMaps, 1);

    g_atomic_ref_count_init(&maps->refs);
    maps->contexts = g_ptr_array_new_with_free_func(g_free);
    maps->maps = g_ptr_array_new_with_free_func((GDestroyNotify)fl_map_unref);
    return maps;
}

static void maps_add(FlDiskMaps *maps, const char *context, FlMap *map)
{
    g_ptr_array_add(maps->contexts, g_strdup(context));
    g_ptr_array_add(maps->maps, map);
}

FlMap *fl_disk_maps_find(const FlDiskMaps *maps, const char *context)
{
    guint i;

    if (!g_ptr_array_find_with_equal_func(maps->contexts, context, g_str_equal, &i))
        return NULL;
    return maps->maps->pdata[i];
}

typedef struct Walk Walk;

/* A part [start, end) of the disk, walked by one request after another. */
typedef struct {
    Walk *walk;
    uint64_t start, end;
    uint64_t at; /* what every context is known up to */
    FlMapBuilder **builders; /* by context */
    bool busy;
    bool failed; /* the server refused the request */
} Segment;

struct Walk {
    const char *const *contexts;
    guint ncontexts;
    uint64_t disk_size;
    uint32_t block; /* the server's minimum: requests are rounded out to it */
    Segment *segments;
    guint nsegments;
    bool sending;     /* inside nbd_aio_block_status() */
    int error;        /* the server's errno, once a request was refused */
    const char *wrong; /* what is wrong with the server's replies; NULL: nothing yet */
};

static int context_index(const Walk *walk, const char *context)
{
    for (guint i = 0; i < walk->ncontexts; i++) {
        if (g_str_equal(walk->contexts[i], context))
            return (int)i;
    }
    return -1;
}

/* One range of a reply: what is known already is skipped, what goes past the segment is cut. */
static void take_range(Segment *segment, int context, uint64_t start, uint64_t length,
                       uint64_t flags)
{
    FlMapBuilder *builder = segment->builders[context];
    uint64_t known = segment->start + fl_map_builder_size(builder);
    uint64_t end = length > segment->end - start ? segment->end : start + length;

    if (flags > UINT32_MAX)
        segment->walk->wrong = "a meta context uses flags of more than 32 bits";
    else if (fl_map_builder_count(builder) >= FL_EXTENTS_MAX)
        segment->walk->wrong = "a map has too many extents";
    else if (end > known)
        fl_map_builder_add(builder, end - known, (uint32_t)flags);
}

#ifdef HAVE_NBD_BLOCK_STATUS_64
static int take_extents(void *opaque, const char *context, uint64_t offset, nbd_extent *entries,
                        size_t count, int *error)
{
    Segment *segment = opaque;
    int index = context_index(segment->walk, context);

    for (size_t i = 0; i < count && index >= 0 && offset < segment->end; i++) {
        take_range(segment, index, offset, entries[i].length, entries[i].flags);
        offset = entries[i].length > segment->end - offset ? segment->end
                                                           : offset + entries[i].length;
    }
    return 0;
}
#else
static int take_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
                        size_t count, int *error)
{
    Segment *segment = opaque;
    int index = context_index(segment->walk, context);

    for (size_t i = 0; i + 1 < count && index >= 0 && offset < segment->end; i += 2) {
        take_range(segment, index, offset, entries[i], entries[i + 1]);
        offset = entries[i] > segment->end - offset ? segment->end : offset + entries[i];
    }
    return 0;
}
#endif

static int request_done(void *opaque, int *error)
{
    Segment *segment = opaque;
    uint64_t known = segment->end;
    /* What fails while it is being sent must not be freed yet: see read_done() in conn.c. */
    bool retire = !segment->walk->sending;

    segment->busy = false;
    if (*error != 0) {
        segment->walk->error = *error;
        return retire;
    }
    for (guint i = 0; i < segment->walk->ncontexts; i++)
        known = MIN(known, segment->start + fl_map_builder_size(segment->builders[i]));
    if (known == segment->at)
        segment->walk->wrong = "a block status reply tells nothing";
    segment->at = known;
    return retire;
}

static bool start_request(struct nbd_handle *nbd, Segment *segment, GError **error)
{
    uint32_t block = segment->walk->block;
    uint64_t from = segment->at / block * block;
    uint64_t to = MIN(fl_div_up(segment->end, block) * block, segment->walk->disk_size);
    uint64_t length = MIN(to - from, REQUEST_MAX);
    nbd_completion_callback done = {.callback = request_done, .user_data = segment};
    int64_t sent;

    segment->busy = segment->walk->sending = true;
#ifdef HAVE_NBD_BLOCK_STATUS_64
    nbd_extent64_callback extents = {.callback = take_extents, .user_data = segment};
    sent = nbd_aio_block_status_64(nbd, length, from, extents, done, 0);
#else
    nbd_extent_callback extents = {.callback = take_extents, .user_data = segment};
    sent = nbd_aio_block_status(nbd, length, from, extents, done, 0);
#endif
    segment->walk->sending = false;
    if (sent >= 0)
        return true;
    segment->busy = false;
    return fl_fail(error, "%s", nbd_get_error());
}

static bool none_busy(struct nbd_handle *nbd, void *opaque)
{
    const Walk *walk = opaque;

    for (guint i = 0; i < walk->nsegments; i++) {
        if (walk->segments[i].busy)
            return false;
    }
    return true;
}

/* True as soon as a segment needs its next request, or nothing is left to wait for. */
static bool one_idle(struct nbd_handle *nbd, void *opaque)
{
    const Walk *walk = opaque;

    if (walk->error != 0 || walk->wrong != NULL)
        return true;
    for (guint i = 0; i < walk->nsegments; i++) {
        if (!walk->segments[i].busy && walk->segments[i].at < walk->segments[i].end)
            return true;
    }
    return none_busy(nbd, opaque);
}

static bool run_walk(struct nbd_handle *nbd, Walk *walk, const FlWait *wait, GError **error)
{
    bool ok = true;

    for (;;) {
        bool started = false;

        for (guint i = 0; i < walk->nsegments && ok; i++) {
            Segment *segment = &walk->segments[i];
            if (segment->busy || segment->at >= segment->end)
                continue;
            ok = start_request(nbd, segment, error);
            started = true;
        }
        if (!ok || (!started && none_busy(nbd, walk)))
            break;
        if (!fl_nbd_wait(nbd, one_idle, walk, wait, error))
            return false;
        if (walk->error != 0 || walk->wrong != NULL) {
            ok = walk->wrong != NULL ? fl_fail(error, "%s", walk->wrong)
                                     : fl_fail(error, "%s", g_strerror(walk->error));
            break;
        }
    }
    /* The callbacks point into the segments: they must all have run before those go. */
    return fl_nbd_wait(nbd, none_busy, walk, wait, ok ? error : NULL) && ok;
}

/*
 * Walks [start, end) for all contexts and hands a map of each to MAPS_OUT. REFUSED tells a server
 * that replied with an error from all other failures.
 */
static bool walk_range(struct nbd_handle *nbd, const char *const *contexts, uint64_t start,
                       uint64_t end, FlMap **maps_out, bool *refused, const FlWait *wait,
                       GError **error)
{
    Walk walk = {
        .contexts = contexts,
        .ncontexts = g_strv_length((char **)contexts),
        .disk_size = (uint64_t)nbd_get_size(nbd),
        .block = (uint32_t)CLAMP(nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM), 1, 1 << 16),
    };
    uint64_t step;
    bool ok;

    walk.nsegments = (guint)CLAMP((end - start) / REQUEST_MAX, 1, SEGMENTS);
    step = (end - start) / walk.nsegments / REQUEST_MAX * REQUEST_MAX;
    walk.segments = g_new0(Segment, walk.nsegments);
    for (guint i = 0; i < walk.nsegments; i++) {
        Segment *segment = &walk.segments[i];
        segment->walk = &walk;
        segment->start = segment->at = start + i * step;
        segment->end = i + 1 == walk.nsegments ? end : segment->start + step;
        segment->builders = g_new(FlMapBuilder *, walk.ncontexts);
        for (guint c = 0; c < walk.ncontexts; c++)
            segment->builders[c] = fl_map_builder_new();
    }

    ok = run_walk(nbd, &walk, wait, error);
    *refused = walk.error != 0 && walk.wrong == NULL;

    for (guint c = 0; c < walk.ncontexts; c++) {
        FlMapBuilder *whole = g_steal_pointer(&walk.segments[0].builders[c]);
        for (guint i = 1; i < walk.nsegments; i++) {
            g_autoptr(FlMap) part =
                fl_map_builder_finish(g_steal_pointer(&walk.segments[i].builders[c]));
            fl_map_builder_append(whole, part);
        }
        if (ok)
            maps_out[c] = fl_map_builder_finish(whole);
        else
            fl_map_builder_free(whole);
    }
    for (guint i = 0; i < walk.nsegments; i++)
        g_free(walk.segments[i].builders);
    g_free(walk.segments);
    return ok;
}

/* A connection with CONTEXTS, all of them negotiated. */
static struct nbd_handle *open_with(FlEndpoint *endpoint, const FlExportInfo *info,
                                    const char *const *contexts, const FlWait *wait, GError **error)
{
    struct nbd_handle *nbd = fl_endpoint_open(endpoint, info->name, contexts, wait, error);

    if (nbd == NULL)
        return NULL;
    if (nbd_get_size(nbd) != (int64_t)info->size) {
        fl_fail(error, "its size has changed");
    } else {
        while (*contexts != NULL && nbd_can_meta_context(nbd, *contexts) > 0)
            contexts++;
        if (*contexts == NULL)
            return nbd;
        fl_fail(error, "the server lists meta context %s but does not give it", *contexts);
    }
    nbd_close(nbd);
    return NULL;
}

static bool load_together(FlEndpoint *endpoint, const FlExportInfo *info,
                          const char *const *contexts, FlMap **maps, bool *refused,
                          const FlWait *wait, GError **error)
{
    struct nbd_handle *nbd = open_with(endpoint, info, contexts, wait, error);
    bool ok;

    *refused = false;
    if (nbd == NULL)
        return false;
    ok = walk_range(nbd, contexts, 0, info->size, maps, refused, wait, error);
    if (ok)
        nbd_shutdown(nbd, 0);
    nbd_close(nbd);
    return ok;
}

/* What any of the bitmaps calls dirty. */
static FlMap *dirty_union(const FlDiskMaps *maps, uint64_t size)
{
    FlMap *all = fl_map_new_uniform(size, 0);

    for (guint i = 0; i < maps->contexts->len; i++) {
        g_autoptr(FlMap) before = all;
        FlMapBuilder *merged = fl_map_builder_new();
        FlMap *map = maps->maps->pdata[i];

        if (!g_str_has_prefix(maps->contexts->pdata[i], BITMAP_PREFIX)) {
            fl_map_builder_append(merged, before);
        } else {
            for (size_t a = 0, b = 0; a < fl_map_count(before);) {
                FlExtent ea = fl_map_get(before, a), eb = fl_map_get(map, b);
                uint64_t end = MIN(ea.end, eb.end);
                fl_map_builder_add(merged, end - fl_map_builder_size(merged),
                                   (ea.type | eb.type) & FL_DIRTY);
                a += ea.end == end;
                b += eb.end == end;
            }
        }
        all = fl_map_builder_finish(merged);
    }
    return all;
}

/*
 * base:allocation from a server that refuses clean ranges, as QEMU's snapshot-access over a
 * copy-before-write filter with a bitmap does: asked on dirty ranges, taken as data elsewhere.
 */
static FlMap *load_dirty_allocation(FlEndpoint *endpoint, const FlExportInfo *info,
                                    const FlDiskMaps *bitmaps, const FlWait *wait, GError **error)
{
    static const char *const contexts[] = {ALLOCATION, NULL};
    g_autoptr(FlMap) dirty = dirty_union(bitmaps, info->size);
    g_autoptr(FlMapBuilder) builder = fl_map_builder_new();
    struct nbd_handle *nbd = open_with(endpoint, info, contexts, wait, error);
    bool ok = true;

    if (nbd == NULL)
        return NULL;
    for (size_t i = 0; i < fl_map_count(dirty) && ok; i++) {
        FlExtent e = fl_map_get(dirty, i);
        bool refused;

        if (e.type & FL_DIRTY) {
            g_autoptr(FlMap) part = NULL;
            ok = walk_range(nbd, contexts, e.start, e.end, &part, &refused, wait, error);
            if (ok)
                fl_map_builder_append(builder, part);
        } else {
            fl_map_builder_add(builder, e.end - e.start, 0);
        }
    }
    if (ok)
        nbd_shutdown(nbd, 0);
    nbd_close(nbd);
    return ok ? fl_map_builder_finish(g_steal_pointer(&builder)) : NULL;
}

/* Each context for itself, when the server refused them together. */
static bool load_apart(FlEndpoint *endpoint, const FlExportInfo *info, FlDiskMaps *maps,
                       const FlWait *wait, GError **error)
{
    for (guint i = 0; i < info->contexts->len; i++) {
        const char *contexts[] = {info->contexts->pdata[i], NULL};
        FlMap *map = NULL;
        bool refused;

        if (g_str_equal(contexts[0], ALLOCATION))
            continue;
        if (!load_together(endpoint, info, contexts, &map, &refused, wait, error)) {
            g_prefix_error(error, "%s: ", contexts[0]);
            return false;
        }
        maps_add(maps, contexts[0], map);
    }
    if (fl_export_info_has_context(info, ALLOCATION)) {
        FlMap *map = load_dirty_allocation(endpoint, info, maps, wait, error);
        if (map == NULL) {
            g_prefix_error(error, ALLOCATION ": ");
            return false;
        }
        maps_add(maps, ALLOCATION, map);
        maps->clean_refused = true;
    }
    return true;
}

FlDiskMaps *fl_block_status_load(FlEndpoint *endpoint, const FlExportInfo *info, const FlWait *wait,
                                 GError **error)
{
    g_autoptr(FlDiskMaps) maps = maps_new();
    guint n = info->contexts->len;
    g_autofree const char **contexts = g_new0(const char *, n + 1);
    g_autofree FlMap **loaded = g_new0(FlMap *, n);
    g_autoptr(GError) why = NULL;
    bool refused = false;

    for (guint i = 0; i < n; i++)
        contexts[i] = info->contexts->pdata[i];
    if (n == 0 || info->size == 0) {
        for (guint i = 0; i < n; i++)
            maps_add(maps, contexts[i], fl_map_new_uniform(0, 0));
    } else if (load_together(endpoint, info, contexts, loaded, &refused, wait, &why)) {
        for (guint i = 0; i < n; i++)
            maps_add(maps, contexts[i], loaded[i]);
    } else if (!refused) {
        g_propagate_prefixed_error(error, g_steal_pointer(&why), "block status: ");
        return NULL;
    } else if (!load_apart(endpoint, info, maps, wait, error)) {
        g_prefix_error(error, "block status: ");
        return NULL;
    }
    return g_steal_pointer(&maps);
}

bool fl_block_status_verify(struct nbd_handle *nbd, const FlDiskMaps *maps, const FlWait *wait,
                            GError **error)
{
    enum { SAMPLES = 8 };

    for (guint c = 0; c < maps->contexts->len; c++) {
        const char *contexts[] = {maps->contexts->pdata[c], NULL};
        const FlMap *map = maps->maps->pdata[c];
        size_t count = fl_map_count(map);

        if (nbd_can_meta_context(nbd, contexts[0]) <= 0)
            return fl_fail(error, "the meta context %s has gone", contexts[0]);
        for (size_t i = 0; i < MIN(count, SAMPLES); i++) {
            FlExtent e = fl_map_get(map, count <= SAMPLES ? i : count / SAMPLES * i);
            g_autoptr(FlMap) now = NULL;
            uint64_t end = MIN(e.end, e.start + REQUEST_MAX);
            bool refused;

            if (maps->clean_refused && g_str_equal(contexts[0], ALLOCATION))
                continue;
            if (!walk_range(nbd, contexts, e.start, end, &now, &refused, wait, error))
                return false;
            if (fl_map_count(now) != 1 || fl_map_get(now, 0).type != e.type)
                return fl_fail(error, "its map %s has changed", contexts[0]);
        }
    }
    return true;
}
