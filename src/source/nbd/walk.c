/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "walk.h"

#include "config.h"
#include "blockstatus.h"
#include "util/deadline.h"
#include "util/size.h"
#include "wait.h"

#include <errno.h>

/* A reply that advances by fewer bytes than this, without a new extent, is a crumb: a server that
 * sends only crumbs would never finish. */
#define CRUMB_BYTES (UINT64_C(64) << 10)
#define CRUMBS_MAX  (32u << 10)

/* Bytes to take from the budget at a time. */
#define STEP (UINT64_C(64) << 10)

/* The laps of a load: each may take FlWait.lap. An honest server needs far less, however large the
 * disk and busy the machine; a hostile one cannot delay a load for longer than all laps. */
#define LAPS 1000

typedef struct Walk Walk;

/* A range walked by consecutive requests. */
typedef struct {
    Walk *walk;
    uint64_t start, end;
    uint64_t at;             /* every context is known up to here */
    FlMapBuilder **builders; /* by context */
    bool busy;
    bool grew; /* the current reply added an extent */
} Segment;

/* libnbd may call the callbacks of a pending request from nbd_close(), or never, depending on the
 * version; so each of them holds a reference to the walk. */
struct Walk {
    gatomicrefcount refs;
    bool abandoned; /* the caller no longer waits */
    char **contexts;
    guint ncontexts;
    uint64_t disk_size;
    uint32_t block; /* the server's minimum block size; requests are aligned to it */
    uint64_t most;  /* maximum bytes per request */
    Segment *segments;
    guint nsegments;
    FlMapBuilder **builders; /* by segment, then context */
    bool sending;            /* inside nbd_aio_block_status() */
    FlMapsUse use;
    unsigned crumbs;   /* number of crumbs */
    int error;         /* the server's errno once it refused a request */
    const char *wrong; /* what is wrong with the replies; NULL if nothing */
};

static const char no_memory[] = "out of memory for the map";

static void walk_unref(Walk *walk)
{
    if (!g_atomic_ref_count_dec(&walk->refs))
        return;
    for (size_t i = 0; walk->builders != NULL && i < (size_t)walk->nsegments * walk->ncontexts; i++)
        fl_map_builder_free(walk->builders[i]);
    g_free(walk->builders);
    g_free(walk->segments);
    g_strfreev(walk->contexts);
    g_free(walk);
}

static void segment_release(void *opaque)
{
    walk_unref(((Segment *)opaque)->walk);
}

static int context_index(const Walk *walk, const char *context)
{
    for (guint i = 0; i < walk->ncontexts; i++) {
        if (g_str_equal(walk->contexts[i], context))
            return (int)i;
    }
    return -1;
}

/* Charges USE to its budget, in steps: there may be many threads and many small maps. */
static bool take_memory(FlMapsUse *use)
{
    uint64_t more = use->bytes > use->taken ? fl_div_up(use->bytes - use->taken, STEP) * STEP : 0;

    if (more == 0 || use->budget == NULL)
        return true;
    if (!fl_budget_take(use->budget, more, UINT64_MAX))
        return false;
    use->taken += more;
    return true;
}

/* Takes one extent of a reply: skips what is known already, clips it to the segment. */
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
    walk->use.bytes += fl_map_builder_bytes(builder) - bytes;
    if (walk->use.bytes > FL_MAPS_MAX)
        walk->wrong = "the maps have too many extents";
    else if (!take_memory(&walk->use))
        walk->wrong = "the maps of all exports of all sources need too much memory";
}

#ifdef HAVE_NBD_BLOCK_STATUS_64
static int take_extents(void *opaque, const char *context, uint64_t offset, nbd_extent *entries,
                        size_t count, int *error)
{
    Segment *segment = opaque;
    int index = segment->walk->abandoned ? -1 : context_index(segment->walk, context);

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
    int index = segment->walk->abandoned ? -1 : context_index(segment->walk, context);

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
    /* A request that fails while it is being sent must not be freed yet: see command_done() in
     * pread.c. */
    bool retire = !walk->sending;

    if (walk->abandoned || !segment->busy)
        return retire;
    segment->busy = false;
    for (guint i = 0; i < walk->ncontexts; i++)
        known = MIN(known, segment->start + fl_map_builder_size(segment->builders[i]));
    /* libnbd (since 1.16) clips an extent at the end of the disk as we do, but then fails the whole
     * reply with EPROTO, which comes from libnbd itself: NBD has no number for it. */
    if (*error != 0 && (*error != EPROTO || known == segment->at)) {
        walk->error = *error;
        return retire;
    }
    if (walk->wrong == NULL && known == segment->at)
        walk->wrong = "a block status reply is empty";
    if (!segment->grew && known < segment->end && known - segment->at < CRUMB_BYTES &&
        ++walk->crumbs > CRUMBS_MAX)
        walk->wrong = "its block status replies cover too few bytes";
    segment->at = known;
    return retire;
}

static bool start_request(struct nbd_handle *nbd, Segment *segment, GError **error)
{
    uint32_t block = segment->walk->block;
    uint64_t from = segment->at / block * block;
    uint64_t to = MIN(fl_div_up(segment->end, block) * block, segment->walk->disk_size);
    uint64_t length = MIN(to - from, segment->walk->most);
    nbd_completion_callback done = {
        .callback = request_done, .user_data = segment, .free = segment_release};
    int64_t sent;

    g_atomic_ref_count_inc(&segment->walk->refs);
    g_atomic_ref_count_inc(&segment->walk->refs);
    segment->busy = segment->walk->sending = true;
    segment->grew = false;
#ifdef HAVE_NBD_BLOCK_STATUS_64
    nbd_extent64_callback extents = {
        .callback = take_extents, .user_data = segment, .free = segment_release};
    sent = nbd_aio_block_status_64(nbd, length, from, extents, done, 0);
#else
    nbd_extent_callback extents = {
        .callback = take_extents, .user_data = segment, .free = segment_release};
    sent = nbd_aio_block_status(nbd, length, from, extents, done, 0);
#endif
    segment->walk->sending = false;
    if (sent >= 0)
        return true;
    segment->busy = false;
    return fl_fail_lost(error, "%s", fl_nbd_error());
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

/* Returns true once a segment needs its next request, or nothing is pending. */
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

/* Whether ERROR means a lost connection and not a reply. */
static bool is_gone(struct nbd_handle *nbd, int error)
{
    return error == ESHUTDOWN || error == ENOTCONN || nbd_aio_is_dead(nbd) ||
           nbd_aio_is_closed(nbd);
}

FlLap fl_lap(const FlWait *wait, uint64_t total)
{
    uint64_t step = wait->lap != 0 ? fl_div_up(total, LAPS) : 0;

    return (FlLap){.wait = *wait, .step = step, .next = step};
}

void fl_lap_reach(FlLap *lap, uint64_t progress)
{
    if (lap->step == 0 || progress < lap->next)
        return;
    lap->wait.deadline = fl_deadline_in(lap->wait.lap);
    if (lap->wait.moved != NULL)
        __atomic_store_n(lap->wait.moved, g_get_monotonic_time(), __ATOMIC_RELAXED);
    lap->next = progress + lap->step;
}

/* Returns the bytes that the ranges have, or that are known of them. */
static uint64_t count_bytes(const Walk *walk, bool known)
{
    uint64_t bytes = 0;

    for (guint i = 0; i < walk->nsegments; i++) {
        const Segment *segment = &walk->segments[i];
        bytes += (known ? segment->at : segment->end) - segment->start;
    }
    return bytes;
}

static bool run_walk(struct nbd_handle *nbd, Walk *walk, FlWait *wait, GError **error)
{
    FlLap lap = fl_lap(wait, count_bytes(walk, false));
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
        fl_lap_reach(&lap, count_bytes(walk, true));
        *wait = lap.wait;
        if (walk->error != 0 || walk->wrong != NULL) {
            ok = walk->wrong != NULL ? fl_fail(error, "%s", walk->wrong)
                 : is_gone(nbd, walk->error)
                     ? fl_fail_lost(error, "the server closed the connection")
                     : fl_fail(error, "%s", g_strerror(walk->error));
            break;
        }
    }
    return ok;
}

/* With extended headers (64 bits) one request, and one extent, can cover a whole disk. */
static uint64_t request_max(struct nbd_handle *nbd)
{
#ifdef HAVE_NBD_BLOCK_STATUS_64
    if (nbd_get_extended_headers_negotiated(nbd) > 0)
        return INT64_MAX;
#endif
    return FL_WALK_REQUEST_MAX;
}

FlMapBuilder **fl_walk(struct nbd_handle *nbd, const char *const *contexts, const FlSpan *spans,
                       guint n, FlMapsUse *use, bool *refused, FlWait *wait, GError **error)
{
    Walk *walk = g_new0(Walk, 1);
    FlMapBuilder **builders = NULL;
    size_t nbuilders;

    g_atomic_ref_count_init(&walk->refs);
    walk->contexts = g_strdupv((char **)contexts);
    walk->ncontexts = g_strv_length(walk->contexts);
    walk->disk_size = (uint64_t)nbd_get_size(nbd);
    walk->block = (uint32_t)CLAMP(nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM), 1, 1 << 16);
    walk->most = request_max(nbd);
    walk->nsegments = n;
    walk->use = *use;
    walk->segments = g_new0(Segment, n);
    nbuilders = (size_t)n * walk->ncontexts;
    walk->builders = g_new(FlMapBuilder *, nbuilders);
    for (size_t i = 0; i < nbuilders; i++)
        walk->builders[i] = fl_map_builder_new();
    for (guint i = 0; i < n; i++) {
        Segment *segment = &walk->segments[i];
        segment->walk = walk;
        segment->start = segment->at = spans[i].start;
        segment->end = spans[i].end;
        segment->builders = walk->builders + (size_t)i * walk->ncontexts;
    }

    *refused = false;
    if (run_walk(nbd, walk, wait, error)) {
        builders = g_steal_pointer(&walk->builders);
    } else {
        *refused = walk->error != 0 && walk->wrong == NULL && !is_gone(nbd, walk->error);
    }
    *use = walk->use;
    walk->abandoned = true;
    walk_unref(walk);
    return builders;
}
