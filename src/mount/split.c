/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/split.h"

#include "export-private.h"
#include "util/json.h"
#include "util/size.h"
#include "view/raw.h"

#include <inttypes.h>
#include <string.h>

/* Seconds to keep read-ahead without an open piece: a reader closes one piece before it opens the
 * next. */
#define KEEP_SECONDS 2

struct FlSplit {
    FlExport *export;
    uint64_t piece_size, count;
    /* Streams: read-ahead for new pieces follows all new pieces; for old ones it stays within the
     * piece. */
    FlStreams *fresh, *old; /* NULL: no readers */
    FlTimes *times;         /* NULL until requested */
    FlView *ahead;          /* the new parts of the disk; NULL: all of it, or not created yet */
    bool checked, back;     /* BACK: the disk was put back to an older state; valid if CHECKED */
    unsigned opened;
    guint timer; /* until read-ahead is dropped; 0: none */
};

bool fl_split_size_valid(uint64_t size)
{
    return size >= FL_SPLIT_MIN && size <= FL_SPLIT_MAX && (size & (size - 1)) == 0;
}

uint64_t fl_split_choose(uint64_t disk_size, uint64_t wanted)
{
    uint64_t size = wanted != 0 ? wanted : FL_SPLIT_DEFAULT;
    uint64_t most = wanted != 0 ? FL_SPLIT_PIECES_MAX : FL_SPLIT_PIECES;

    while ((disk_size - 1) / size >= most)
        size *= 2;
    return size;
}

FlSplit *fl_split_new(FlExport *export)
{
    FlSplit *split = g_new0(FlSplit, 1);
    uint64_t size = fl_disk_info(export->disk)->size, wanted = export->options->split;
    const FlTimes *times = export->origin->pieces.times;

    /* A series keeps its initial piece size. */
    if (wanted == 0 && times != NULL && fl_times_disk_size(times) == size)
        wanted = fl_times_piece_size(times);
    split->export = export;
    split->piece_size = fl_split_choose(size, wanted);
    split->count = (size - 1) / split->piece_size + 1;
    return split;
}

static void forget(FlSplit *split)
{
    g_clear_handle_id(&split->timer, g_source_remove);
    g_clear_pointer(&split->fresh, fl_streams_free);
    g_clear_pointer(&split->old, fl_streams_free);
}

void fl_split_free(FlSplit *split)
{
    if (split == NULL)
        return;
    forget(split);
    fl_view_unref(split->ahead);
    fl_times_free(split->times);
    g_free(split);
}

uint64_t fl_split_piece_size(const FlSplit *split)
{
    return split->piece_size;
}

uint64_t fl_split_count(const FlSplit *split)
{
    return split->count;
}

bool fl_split_parse(const FlSplit *split, const char *name, uint64_t *index)
{
    return fl_piece_name_parse(name, split->count, index);
}

void fl_split_range(const FlSplit *split, uint64_t index, uint64_t *start, uint64_t *end)
{
    uint64_t size = fl_disk_info(split->export->disk)->size;

    *start = index * split->piece_size;
    *end = MIN(split->piece_size, size - *start) + *start;
}

FlView *fl_split_view(const FlSplit *split, uint64_t index)
{
    FlDisk *disk = split->export->disk;
    FlMap *alloc = fl_disk_maps_find(fl_disk_maps(disk), FL_CONTEXT_NAME_ALLOCATION);
    uint64_t start, end;

    fl_split_range(split, index, &start, &end);
    return fl_view_raw_new(alloc, NULL, fl_disk_info(disk)->size, start, end - start);
}

/* Whether the disk may have been rolled back to an older state since the base. A piece may then
 * have an older time than a tool has seen of it, and a tool that compares times with its last run
 * would skip it. */
static bool went_back(FlSplit *split, const FlMap *dirty)
{
    const FlOrigin *origin = split->export->origin;
    const GPtrArray *shown = origin->pieces.shown;

    for (guint i = 0; !split->checked && shown != NULL && i < shown->len; i++)
        split->back |= !fl_times_may_follow(origin->pieces.times, shown->pdata[i], dirty);
    if (!split->checked && split->back)
        g_message("disk %s: all files in split/ have the time of this snapshot: pieces that an "
                  "earlier mount showed as changed are unchanged now, so the disk was put back to "
                  "an older state, or the pieces had another size",
                  origin->folder);
    split->checked = true;
    return split->back;
}

/* The ranges changed since the last backup; NULL if they, or the times of the other pieces, are
 * unknown: everything then counts as changed. */
static FlMap *dirty_of(FlSplit *split)
{
    const FlOrigin *origin = split->export->origin;
    uint64_t size = fl_disk_info(split->export->disk)->size;
    const char *why;
    FlMap *dirty;

    if (origin->chain.increment == NULL || origin->chain.base == NULL ||
        origin->pieces.times == NULL || fl_disk_maps(split->export->disk) == NULL ||
        !fl_times_fit(origin->pieces.times, size, split->piece_size, origin->pieces.time, &why))
        return NULL;
    dirty = fl_disk_maps_find(fl_disk_maps(split->export->disk), origin->chain.increment);
    return dirty != NULL && !went_back(split, dirty) ? dirty : NULL;
}

bool fl_split_is_new(FlSplit *split, uint64_t index)
{
    const FlMap *dirty = dirty_of(split);
    uint64_t start, end;

    fl_split_range(split, index, &start, &end);
    return dirty == NULL || fl_times_is_dirty(dirty, start, end);
}

FlTimes *fl_split_all_times(FlSplit *split)
{
    const FlOrigin *origin = split->export->origin;

    return fl_times_next(origin->pieces.times, dirty_of(split),
                         fl_disk_info(split->export->disk)->size, split->piece_size,
                         origin->pieces.time);
}

bool fl_split_was_shown(const FlSplit *split)
{
    return split->times != NULL;
}

void fl_split_times(FlSplit *split, uint64_t index, struct timespec *mtime, struct timespec *ctime)
{
    const FlOrigin *origin = split->export->origin;

    if (split->times == NULL) {
        if (origin->pieces.foreign != NULL)
            origin->pieces.take_over(origin);
        split->times = fl_split_all_times(split);
    }
    *mtime = fl_times_get(split->times, index);
    /* The ctime of an image may be later than its mtime. */
    *ctime = fl_split_is_new(split, index) && origin->pieces.ctime.tv_sec > mtime->tv_sec
                 ? origin->pieces.ctime
                 : *mtime;
}

/* The next run of new pieces, [*FIRST, *END), that starts at or after FROM; false if there is none.
 * The cost depends on the number of extents, not of pieces. */
static bool next_new(const FlSplit *split, const FlMap *dirty, uint64_t from, uint64_t *first,
                     uint64_t *end)
{
    size_t i;

    if (from >= split->count)
        return false;
    for (i = fl_map_find(dirty, from * split->piece_size); i < fl_map_count(dirty); i++) {
        if ((fl_map_get(dirty, i).type & FL_DIRTY) != 0)
            break;
    }
    if (i == fl_map_count(dirty))
        return false;
    *first = MAX(from, fl_map_get(dirty, i).start / split->piece_size);
    *end = *first;
    for (; i < fl_map_count(dirty); i++) {
        FlExtent extent = fl_map_get(dirty, i);

        if ((extent.type & FL_DIRTY) == 0)
            continue;
        if (extent.start / split->piece_size > *end)
            break;
        *end = MAX(*end, (extent.end - 1) / split->piece_size + 1);
    }
    return true;
}

/* The number of new pieces in [FROM, TO). */
static uint64_t count_new(const FlSplit *split, const FlMap *dirty, uint64_t from, uint64_t to)
{
    uint64_t n = 0, first;

    if (from >= to)
        return 0;
    if (dirty == NULL)
        return to - from;
    while (next_new(split, dirty, from, &first, &from) && first < to)
        n += MIN(from, to) - first;
    return n;
}

uint64_t fl_split_changed(FlSplit *split)
{
    return count_new(split, dirty_of(split), 0, split->count);
}

uint64_t fl_split_changed_read(FlSplit *split)
{
    const FlMap *dirty = dirty_of(split);
    uint64_t size = fl_disk_info(split->export->disk)->size, n = 0, start, end = 0;

    while (fl_cover_next(split->export->cover, end, &start, &end))
        n += count_new(split, dirty, fl_div_up(start, split->piece_size),
                       end == size ? split->count : end / split->piece_size);
    return n;
}

/* A view of the disk with only its new pieces, for read-ahead; NULL if out of memory. */
static FlView *make_ahead(const FlSplit *split, const FlMap *dirty)
{
    FlDisk *disk = split->export->disk;
    uint64_t size = fl_disk_info(disk)->size, first, end = 0, at = 0;
    FlMap *alloc = fl_disk_maps_find(fl_disk_maps(disk), FL_CONTEXT_NAME_ALLOCATION);
    g_autoptr(FlMapBuilder) builder = fl_map_builder_new();
    g_autoptr(FlMap) fresh = NULL;
    errint_t r = 0;

    while (r == 0 && next_new(split, dirty, end, &first, &end)) {
        uint64_t start = first * split->piece_size, stop;

        fl_split_range(split, end - 1, &stop, &stop);
        r = fl_map_builder_add(builder, start - at, 0);
        if (r == 0)
            r = fl_map_builder_add(builder, stop - start, FL_DIRTY);
        at = stop;
    }
    if (r == 0)
        r = fl_map_builder_add(builder, size - at, 0);
    if (r < 0)
        return NULL;
    fresh = fl_map_builder_finish(g_steal_pointer(&builder));
    return fl_view_raw_new(alloc, fresh, size, 0, size);
}

FlReadSource fl_split_source(FlSplit *split, uint64_t index)
{
    FlFile *raw = split->export->files->pdata[0]; /* disk.raw */
    FlReadSource source = fl_file_source(raw);
    const FlMap *dirty = dirty_of(split);
    bool is_new = fl_split_is_new(split, index);
    FlStreams **streams = is_new ? &split->fresh : &split->old;
    uint64_t start;

    if (is_new && dirty != NULL && split->ahead == NULL)
        split->ahead = make_ahead(split, dirty);
    if (*streams == NULL)
        *streams = fl_streams_new();
    source.streams = *streams;
    if (is_new)
        source.ahead = split->ahead;
    else
        fl_split_range(split, index, &start, &source.ahead_end);
    return source;
}

void fl_split_opened(FlSplit *split)
{
    g_clear_handle_id(&split->timer, g_source_remove);
    split->opened++;
    split->export->opened++;
}

static gboolean expired(gpointer opaque)
{
    FlSplit *split = opaque;

    split->timer = 0;
    forget(split);
    if (split->export->opened == 0)
        fl_blocks_clear(split->export->blocks);
    return G_SOURCE_REMOVE;
}

void fl_split_skipped(FlSplit *split, uint64_t index, uint64_t from, uint64_t to)
{
    uint64_t start, end;

    fl_split_range(split, index, &start, &end);
    if (from < to && to <= end - start)
        fl_cover_add(split->export->cover, start + from, start + to);
}

void fl_split_closed(FlSplit *split, uint64_t index)
{
    g_autoptr(FlView) view =
        fl_disk_maps(split->export->disk) != NULL ? fl_split_view(split, index) : NULL;

    if (view != NULL && view->data_bytes == 0)
        fl_split_skipped(split, index, 0, view->size);
    split->export->opened--;
    if (--split->opened == 0 && split->timer == 0)
        split->timer = g_timeout_add_seconds(KEEP_SECONDS, expired, split);
}

GHashTable *fl_split_xattrs(const FlSplit *split, uint64_t index)
{
    GHashTable *xattrs = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, g_free);

    if (index == 0)
        g_hash_table_insert(xattrs, (char *)"disk_size",
                            g_strdup_printf("%" PRIu64, fl_disk_info(split->export->disk)->size));
    return xattrs;
}

void fl_split_add_info(FlSplit *split, JsonBuilder *json)
{
    json_builder_set_member_name(json, "split");
    json_builder_begin_object(json);
    fl_json_add_int(json, "size", (gint64)split->piece_size);
    fl_json_add_int(json, "pieces", (gint64)split->count);
    fl_json_add_int(json, "changed", (gint64)fl_split_changed(split));
    json_builder_end_object(json);
}
