/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/split.h"

#include "export-private.h"
#include "util/json.h"
#include "util/size.h"
#include "view/raw.h"

#include <inttypes.h>
#include <string.h>

/* A reader closes one piece before it opens the next: what was read ahead is kept for so long. */
#define KEEP_SECONDS 2

struct FlSplit {
    FlExport *export;
    uint64_t piece_size, count;
    /* Readers of new pieces run ahead along all new pieces, readers of old ones within theirs. */
    FlStreams *fresh, *old; /* NULL: nobody reads */
    FlTimes *times;         /* NULL until somebody asks */
    FlView *ahead;          /* what of the disk is new; NULL: all of it, or not made yet */
    unsigned opened;
    guint timer; /* until what was read ahead goes; 0: none */
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
    const FlTimes *times = export->origin->times;

    /* A series keeps the size that it has begun with. */
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

/* What has changed since the last backup; NULL: nobody knows, or knows since when the rest has been
 * as it is, and all of it counts as changed. */
static FlMap *dirty_of(const FlSplit *split)
{
    const FlOrigin *origin = split->export->origin;
    uint64_t size = fl_disk_info(split->export->disk)->size;
    const char *why;

    if (origin->increment == NULL || origin->base == NULL || origin->times == NULL ||
        !fl_times_fit(origin->times, size, split->piece_size, origin->piece_time, &why))
        return NULL;
    return fl_disk_maps_find(fl_disk_maps(split->export->disk), origin->increment);
}

bool fl_split_is_new(const FlSplit *split, uint64_t index)
{
    const FlMap *dirty = dirty_of(split);
    uint64_t start, end;
    size_t extent;

    if (dirty == NULL)
        return true;
    fl_split_range(split, index, &start, &end);
    extent = fl_map_find(dirty, start);
    /* Neighbours have different types: what is clean here is dirty next. */
    return (fl_map_get(dirty, extent).type & FL_DIRTY) != 0 || fl_map_get(dirty, extent).end < end;
}

FlTimes *fl_split_all_times(const FlSplit *split)
{
    const FlOrigin *origin = split->export->origin;

    return fl_times_next(origin->times, dirty_of(split), fl_disk_info(split->export->disk)->size,
                         split->piece_size, origin->piece_time);
}

void fl_split_times(FlSplit *split, uint64_t index, struct timespec *mtime, struct timespec *ctime)
{
    const FlOrigin *origin = split->export->origin;

    if (split->times == NULL)
        split->times = fl_split_all_times(split);
    *mtime = fl_times_get(split->times, index);
    /* That of an image may be later than its mtime. */
    *ctime = fl_split_is_new(split, index) && origin->piece_ctime.tv_sec > mtime->tv_sec
                 ? origin->piece_ctime
                 : *mtime;
}

/* The next run of pieces that are new, [*FIRST, *END), of which none is before FROM; false if there
 * is none. Costs as much as there are extents, not pieces. */
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

/* The new pieces among [FROM, TO). */
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

uint64_t fl_split_changed(const FlSplit *split)
{
    return count_new(split, dirty_of(split), 0, split->count);
}

uint64_t fl_split_changed_read(const FlSplit *split)
{
    const FlMap *dirty = dirty_of(split);
    uint64_t size = fl_disk_info(split->export->disk)->size, n = 0, start, end = 0;

    while (fl_cover_next(split->export->cover, end, &start, &end))
        n += count_new(split, dirty, fl_div_up(start, split->piece_size),
                       end == size ? split->count : end / split->piece_size);
    return n;
}

/* The disk with only the pieces that are new, for readers to run ahead along; NULL without memory.
 */
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

void fl_split_add_info(const FlSplit *split, JsonBuilder *json)
{
    json_builder_set_member_name(json, "split");
    json_builder_begin_object(json);
    fl_json_add_int(json, "size", (gint64)split->piece_size);
    fl_json_add_int(json, "pieces", (gint64)split->count);
    fl_json_add_int(json, "changed", (gint64)fl_split_changed(split));
    json_builder_end_object(json);
}
