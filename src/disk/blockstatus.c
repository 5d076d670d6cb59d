/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/blockstatus.h"

#include "config.h"
#include "util/size.h"

#include <errno.h>

/* A request names at most 2^32-1 bytes; kept to a multiple of every block size. */
#define REQUEST_MAX (UINT64_C(2) << 30)
/* Requests in flight: cuts of a disk, and small ranges of it. */
#define SEGMENTS 16
#define BATCH    64
/* A reply that moves on by less than so many bytes, without a new extent, is a crumb: a server that
 * sends nothing else would never come to an end. */
#define CRUMB_BYTES (UINT64_C(64) << 10)
#define CRUMBS_MAX  (32u << 10)

#define ALLOCATION    "base:allocation"
#define BITMAP_PREFIX "qemu:dirty-bitmap:"

/* The range [start, end) of the disk. */
typedef struct {
    uint64_t start, end;
} Range;

typedef struct Walk Walk;

/* A range walked by one request after another. */
typedef struct {
    Walk *walk;
    uint64_t start, end;
    uint64_t at;             /* what every context is known up to */
    FlMapBuilder **builders; /* by context */
    bool busy;
    bool grew; /* the reply that is coming in brought a new extent */
} Segment;

struct Walk {
    const char *const *contexts;
    guint ncontexts;
    uint64_t disk_size;
    uint32_t block; /* the server's minimum: requests are rounded out to it */
    Segment *segments;
    guint nsegments;
    bool sending;      /* inside nbd_aio_block_status() */
    size_t bytes;      /* of memory, for all maps of the export so far */
    unsigned crumbs;   /* replies that told next to nothing */
    int error;         /* the server's errno, once a request was refused */
    const char *wrong; /* what is wrong with the server's replies; NULL: nothing yet */
};

static const char no_memory[] = "there is no memory for the map";

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
    Walk *walk = segment->walk;
    FlMapBuilder *builder = segment->builders[context];
    size_t count = fl_map_builder_count(builder), bytes = fl_map_builder_bytes(builder);
    uint64_t known = segment->start + fl_map_builder_size(builder);
    uint64_t end = length > segment->end - start ? segment->end : start + length;

    if (walk->wrong != NULL || end <= known)
        return;
    if (flags > UINT32_MAX)
        walk->wrong = "a meta context uses flags of more than 32 bits";
    else if (fl_map_builder_add(builder, end - known, (uint32_t)flags) < 0)
        walk->wrong = no_memory;
    segment->grew = segment->grew || fl_map_builder_count(builder) > count;
    walk->bytes += fl_map_builder_bytes(builder) - bytes;
    if (walk->bytes > FL_MAPS_MAX)
        walk->wrong = "the maps have too many extents";
}

#ifdef HAVE_NBD_BLOCK_STATUS_64
static int take_extents(void *opaque, const char *context, uint64_t offset, nbd_extent *entries,
                        size_t count, int *error)
{
    Segment *segment = opaque;
    int index = context_index(segment->walk, context);

    for (size_t i = 0; i < count && index >= 0 && offset < segment->end; i++) {
        take_range(segment, index, offset, entries[i].length, entries[i].flags);
        offset =
            entries[i].length > segment->end - offset ? segment->end : offset + entries[i].length;
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
    Walk *walk = segment->walk;
    uint64_t known = segment->end;
    /* What fails while it is being sent must not be freed yet: see read_done() in conn.c. */
    bool retire = !segment->walk->sending;

    segment->busy = false;
    if (*error != 0) {
        walk->error = *error;
        return retire;
    }
    for (guint i = 0; i < walk->ncontexts; i++)
        known = MIN(known, segment->start + fl_map_builder_size(segment->builders[i]));
    if (walk->wrong == NULL && known == segment->at)
        walk->wrong = "a block status reply tells nothing";
    if (!segment->grew && known < segment->end && known - segment->at < CRUMB_BYTES &&
        ++walk->crumbs > CRUMBS_MAX)
        walk->wrong = "its block status replies tell next to nothing";
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
    segment->grew = false;
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
    return fl_fail_lost(error, "%s", nbd_get_error());
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

/* Whether ERROR is the end of the connection and not an answer. */
static bool is_gone(struct nbd_handle *nbd, int error)
{
    return error == ESHUTDOWN || error == ENOTCONN || nbd_aio_is_dead(nbd) ||
           nbd_aio_is_closed(nbd);
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
                 : is_gone(nbd, walk->error)
                     ? fl_fail_lost(error, "the server closed the connection")
                     : fl_fail(error, "%s", g_strerror(walk->error));
            break;
        }
    }
    /* The callbacks point into the segments: they must all have run before those go. */
    return fl_nbd_wait(nbd, none_busy, walk, wait, ok ? error : NULL) && ok;
}

static void builders_free(FlMapBuilder **builders, size_t n)
{
    for (size_t i = 0; builders != NULL && i < n; i++)
        fl_map_builder_free(builders[i]);
    g_free(builders);
}

/*
 * Walks N ranges for all contexts. The builders that it returns hold what was told of each range,
 * by range and then by context. BYTES is what the maps of the export take, and is kept. REFUSED
 * tells a server that replied with an error from all other failures.
 */
static FlMapBuilder **walk_ranges(struct nbd_handle *nbd, const char *const *contexts,
                                  const Range *ranges, guint n, size_t *bytes, bool *refused,
                                  const FlWait *wait, GError **error)
{
    Walk walk = {
        .contexts = contexts,
        .ncontexts = g_strv_length((char **)contexts),
        .disk_size = (uint64_t)nbd_get_size(nbd),
        .block = (uint32_t)CLAMP(nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM), 1, 1 << 16),
        .nsegments = n,
        .bytes = *bytes,
    };
    g_autofree Segment *segments = g_new0(Segment, n);
    FlMapBuilder **builders = g_new(FlMapBuilder *, n * walk.ncontexts);

    for (size_t i = 0; i < (size_t)n * walk.ncontexts; i++)
        builders[i] = fl_map_builder_new();
    for (guint i = 0; i < n; i++) {
        Segment *segment = &segments[i];
        segment->walk = &walk;
        segment->start = segment->at = ranges[i].start;
        segment->end = ranges[i].end;
        segment->builders = builders + (size_t)i * walk.ncontexts;
    }
    walk.segments = segments;

    if (!run_walk(nbd, &walk, wait, error)) {
        *refused = walk.error != 0 && walk.wrong == NULL && !is_gone(nbd, walk.error);
        builders_free(builders, (size_t)n * walk.ncontexts);
        return NULL;
    }
    *refused = false;
    *bytes = walk.bytes;
    return builders;
}

/* The maps of the whole disk, by context; false with nothing in MAPS_OUT. */
static bool walk_disk(struct nbd_handle *nbd, const char *const *contexts, uint64_t size,
                      size_t *bytes, FlMap **maps_out, bool *refused, const FlWait *wait,
                      GError **error)
{
    guint ncontexts = g_strv_length((char **)contexts);
    guint n = (guint)CLAMP(size / REQUEST_MAX, 1, SEGMENTS);
    uint64_t step = size / n / REQUEST_MAX * REQUEST_MAX;
    Range ranges[SEGMENTS];
    FlMapBuilder **builders;
    bool ok = true;

    for (guint i = 0; i < n; i++)
        ranges[i] = (Range){.start = i * step, .end = i + 1 == n ? size : (i + 1) * step};
    builders = walk_ranges(nbd, contexts, ranges, n, bytes, refused, wait, error);
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

/* A connection with CONTEXTS, all of them negotiated. */
static struct nbd_handle *open_with(FlEndpoint *endpoint, const FlExportInfo *info,
                                    const char *const *contexts, const FlWait *wait, GError **error)
{
    struct nbd_handle *nbd = fl_endpoint_open(endpoint, info->name, contexts, wait, error);

    if (nbd == NULL)
        return NULL;
    if (nbd_get_size(nbd) != (int64_t)info->size) {
        fl_fail_changed(error, "its size has changed");
    } else {
        while (*contexts != NULL && nbd_can_meta_context(nbd, *contexts) > 0)
            contexts++;
        if (*contexts == NULL)
            return nbd;
        fl_fail_changed(error, "the server lists meta context %s but does not give it", *contexts);
    }
    nbd_close(nbd);
    return NULL;
}

static bool load_together(FlEndpoint *endpoint, const FlExportInfo *info,
                          const char *const *contexts, size_t *bytes, FlMap **maps, bool *refused,
                          const FlWait *wait, GError **error)
{
    struct nbd_handle *nbd = open_with(endpoint, info, contexts, wait, error);
    bool ok;

    *refused = false;
    if (nbd == NULL)
        return false;
    ok = walk_disk(nbd, contexts, info->size, bytes, maps, refused, wait, error);
    if (ok)
        nbd_shutdown(nbd, 0);
    nbd_close(nbd);
    return ok;
}

/* What A or B calls dirty. */
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

/* What any of the bitmaps among [from, to) of the maps calls dirty. By halves, so that many bitmaps
 * cost no more than their extents. */
static FlMap *dirty_union(const FlDiskMaps *maps, guint from, guint to, uint64_t size)
{
    g_autoptr(FlMap) left = NULL;
    g_autoptr(FlMap) right = NULL;

    if (to - from > 1) {
        left = dirty_union(maps, from, from + (to - from) / 2, size);
        right = dirty_union(maps, from + (to - from) / 2, to, size);
    } else {
        left = fl_map_new_uniform(size, 0);
        right = to > from && g_str_has_prefix(maps->contexts->pdata[from], BITMAP_PREFIX)
                    ? fl_map_ref(maps->maps->pdata[from])
                    : fl_map_ref(left);
    }
    return merge_dirty(left, right);
}

/* base:allocation on the dirty extents of DIRTY from FIRST on, a batch of them, at the end of
 * WHOLE; the others are taken as data. The index of the extent to go on with; 0 if it failed. */
static size_t load_dirty_batch(struct nbd_handle *nbd, const FlMap *dirty, size_t first,
                               size_t *bytes, FlMapBuilder *whole, const FlWait *wait,
                               GError **error)
{
    static const char *const contexts[] = {ALLOCATION, NULL};
    g_autofree FlMapBuilder **builders = NULL;
    Range ranges[BATCH];
    size_t end = first;
    guint n = 0;
    bool refused, ok = true;

    for (; end < fl_map_count(dirty) && n < BATCH; end++) {
        FlExtent e = fl_map_get(dirty, end);
        if (e.type & FL_DIRTY)
            ranges[n++] = (Range){.start = e.start, .end = e.end};
    }
    if (n > 0) {
        builders = walk_ranges(nbd, contexts, ranges, n, bytes, &refused, wait, error);
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

/*
 * base:allocation from a server that refuses clean ranges, as QEMU's snapshot-access over a
 * copy-before-write filter with a bitmap does: asked on dirty ranges, taken as data elsewhere.
 */
static FlMap *load_dirty_allocation(FlEndpoint *endpoint, const FlExportInfo *info,
                                    const FlDiskMaps *bitmaps, size_t bytes, const FlWait *wait,
                                    GError **error)
{
    static const char *const contexts[] = {ALLOCATION, NULL};
    g_autoptr(FlMap) dirty = NULL;
    g_autoptr(FlMapBuilder) whole = fl_map_builder_new();
    struct nbd_handle *nbd;
    size_t next = 0;

    /* What is made of them takes as much again, and once more while it is being made. */
    if (bytes > FL_MAPS_MAX / 3) {
        fl_fail(error, "the bitmaps have too many extents");
        return NULL;
    }
    dirty = dirty_union(bitmaps, 0, bitmaps->contexts->len, info->size);
    nbd = open_with(endpoint, info, contexts, wait, error);
    if (nbd == NULL)
        return NULL;
    do
        next = load_dirty_batch(nbd, dirty, next, &bytes, whole, wait, error);
    while (next > 0 && next < fl_map_count(dirty));
    if (next > 0)
        nbd_shutdown(nbd, 0);
    nbd_close(nbd);
    return next > 0 ? fl_map_builder_finish(g_steal_pointer(&whole)) : NULL;
}

/* Each context for itself, when the server refused them together. */
static bool load_apart(FlEndpoint *endpoint, const FlExportInfo *info, FlDiskMaps *maps,
                       const FlWait *wait, GError **error)
{
    size_t bytes = 0;

    for (guint i = 0; i < info->contexts->len; i++) {
        const char *contexts[] = {info->contexts->pdata[i], NULL};
        FlMap *map = NULL;
        bool refused;

        if (g_str_equal(contexts[0], ALLOCATION))
            continue;
        if (!load_together(endpoint, info, contexts, &bytes, &map, &refused, wait, error)) {
            g_prefix_error(error, "%s: ", contexts[0]);
            return false;
        }
        fl_disk_maps_add(maps, contexts[0], map);
    }
    if (fl_export_info_has_context(info, ALLOCATION)) {
        FlMap *map = load_dirty_allocation(endpoint, info, maps, bytes, wait, error);
        if (map == NULL) {
            g_prefix_error(error, ALLOCATION ": ");
            return false;
        }
        fl_disk_maps_add(maps, ALLOCATION, map);
        maps->clean_refused = true;
    }
    return true;
}

FlDiskMaps *fl_block_status_load(FlEndpoint *endpoint, const FlExportInfo *info, const FlWait *wait,
                                 GError **error)
{
    g_autoptr(FlDiskMaps) maps = fl_disk_maps_new();
    guint n = info->contexts->len;
    g_autofree const char **contexts = g_new0(const char *, n + 1);
    g_autofree FlMap **loaded = g_new0(FlMap *, n);
    g_autoptr(GError) why = NULL;
    bool refused = false;
    size_t bytes = 0;

    for (guint i = 0; i < n; i++)
        contexts[i] = info->contexts->pdata[i];
    if (n == 0 || info->size == 0) {
        for (guint i = 0; i < n; i++)
            fl_disk_maps_add(maps, contexts[i], fl_map_new_uniform(0, 0));
    } else if (load_together(endpoint, info, contexts, &bytes, loaded, &refused, wait, &why)) {
        for (guint i = 0; i < n; i++)
            fl_disk_maps_add(maps, contexts[i], loaded[i]);
    } else if (!refused) {
        g_propagate_prefixed_error(error, g_steal_pointer(&why), "block status: ");
        return NULL;
    } else if (!load_apart(endpoint, info, maps, wait, error)) {
        g_prefix_error(error, "block status: ");
        return NULL;
    }
    return g_steal_pointer(&maps);
}

/*
 * Whether one map of a disk may say NOW where it said KNOWN before. What a fleecing server copies
 * before it is written is data from then on, in whole clusters, also where it was a hole.
 */
static bool is_type_kept(bool allocation, uint32_t known, uint32_t now)
{
    return known == now || (allocation && (now & FL_ALLOC_ZERO & ~known) == 0);
}

/* Whether PART, a map of the disk from START on, says what MAP says there. */
static bool agrees(const FlMap *map, const FlMap *part, uint64_t start, bool allocation)
{
    for (size_t i = 0; i < fl_map_count(part); i++) {
        FlExtent now = fl_map_get(part, i), known;
        size_t index = fl_map_find(map, start + now.start);

        do {
            known = fl_map_get(map, index++);
            if (!is_type_kept(allocation, known.type, now.type))
                return false;
        } while (known.end < start + now.end);
    }
    return true;
}

bool fl_block_status_verify(struct nbd_handle *nbd, const FlDiskMaps *maps, const FlWait *wait,
                            GError **error)
{
    enum { SAMPLES = 16 };
    g_autofree const char **contexts = fl_disk_maps_contexts(maps);
    guint n = g_strv_length((char **)contexts);
    g_autofree const FlMap **known = g_new0(const FlMap *, n);
    Range ranges[SAMPLES];
    FlMapBuilder **builders;
    const char *changed = NULL;
    size_t bytes = 0;
    bool refused;

    for (guint i = 0; i < n; i++) {
        if (nbd_can_meta_context(nbd, contexts[i]) <= 0)
            return fl_fail_changed(error, "the meta context %s has gone", contexts[i]);
        known[i] = fl_disk_maps_find(maps, contexts[i]);
    }
    if (n == 0 || fl_map_size(known[0]) == 0)
        return true;
    for (guint i = 0; i < SAMPLES; i++) {
        const FlMap *map = known[i % n];
        FlExtent e = fl_map_get(map, fl_map_count(map) * i / SAMPLES);
        ranges[i] = (Range){.start = e.start, .end = MIN(e.end, e.start + REQUEST_MAX)};
    }
    builders = walk_ranges(nbd, contexts, ranges, SAMPLES, &bytes, &refused, wait, error);
    if (builders == NULL) {
        /* An error may pass; the next connection will tell. */
        if (refused && error != NULL)
            (*error)->code = FL_ERROR_LOST;
        return false;
    }
    for (guint i = 0; i < SAMPLES * n; i++) {
        g_autoptr(FlMap) part = fl_map_builder_finish(builders[i]);
        if (!agrees(known[i % n], part, ranges[i / n].start,
                    g_str_equal(contexts[i % n], ALLOCATION)))
            changed = contexts[i % n];
    }
    g_free(builders);
    return changed == NULL || fl_fail_changed(error, "its map %s has changed", changed);
}
