/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/qcow2.h"

#include "map/join.h"
#include "util/size.h"
#include "view/qcow2-image.h"

#include <inttypes.h>
#include <string.h>

/* QEMU's limits for the name and format of the backing file. */
#define MAX_BACKING_NAME 1023u
#define MAX_BACKING_FMT  15u

typedef struct {
    FlView view;
    FlMap *alloc; /* owned, may be NULL */
    uint64_t disk_size;
    bool whole; /* clusters in neither set are zeros, not left to a backing file */
    FlQcow2Image image;
} Qcow2View;

static FlPiece qcow2_piece(const FlView *view, uint64_t offset)
{
    const Qcow2View *qcow2 = (const Qcow2View *)view;
    const FlQcow2Layout *layout = &qcow2->image.layout;
    const FlRuns *data = &qcow2->image.clusters.data;
    FlPiece piece = {.kind = FL_PIECE_MADE, .start = offset, .end = layout->data};
    uint64_t into, run_end;
    FlJoin join;
    FlRange range;
    size_t i;

    if (offset < layout->data)
        return piece;

    into = offset - layout->data;
    i = fl_runs_select(data, into / layout->cluster_size);
    piece.disk_offset = (data->run[i].first - data->run[i].rank) * layout->cluster_size + into;
    run_end = fl_runs_end(data, i) * layout->cluster_size;
    if (piece.disk_offset >= qcow2->disk_size) {
        piece.kind = FL_PIECE_HOLE;
        piece.end = layout->end;
        return piece;
    }
    /* Ignore the dirty map: the clean remainder of a cluster comes from the disk too. */
    fl_join_init(&join, qcow2->alloc, NULL, qcow2->disk_size, piece.disk_offset, FL_JOIN_ZERO);
    fl_join_next(&join, &range);
    piece.kind = range.zero ? FL_PIECE_ZERO : FL_PIECE_DISK;
    piece.end = offset + MIN(range.end, run_end) - piece.disk_offset;
    return piece;
}

static void qcow2_make(const FlView *view, void *buf, size_t length, uint64_t offset)
{
    const Qcow2View *qcow2 = (const Qcow2View *)view;

    fl_qcow2_make(&qcow2->image, buf, length, offset);
}

static void qcow2_clear(FlView *view)
{
    Qcow2View *qcow2 = (Qcow2View *)view;

    fl_map_unref(qcow2->alloc);
    fl_qcow2_clusters_clear(&qcow2->image.clusters);
    if (qcow2->image.header != NULL)
        g_byte_array_unref(qcow2->image.header);
}

static const FlViewOps qcow2_ops = {
    .piece = qcow2_piece,
    .make = qcow2_make,
    .clear = qcow2_clear,
};

bool fl_qcow2_cluster_size_valid(uint64_t size)
{
    return fl_is_power_of_two(size) && size >= FL_QCOW2_CLUSTER_MIN && size <= FL_QCOW2_CLUSTER_MAX;
}

/* The largest cluster size that divides the granularity, if known, and every boundary of the bitmap
 * except the end of the disk: no cluster is then partly dirty. */
static uint64_t preferred_cluster_size(const FlQcow2Params *params)
{
    uint64_t multiples = FL_QCOW2_CLUSTER_DEFAULT;

    if (params->dirty == NULL)
        return multiples;
    multiples |= params->granularity;
    for (size_t i = 0; i < fl_map_count(params->dirty); i++)
        multiples |= fl_map_get(params->dirty, i).start;
    return MAX(multiples & -multiples, FL_QCOW2_CLUSTER_MIN);
}

/* Tries clusters of SIZE; returns NULL, or why they are not possible. */
static const char *try_cluster_size(FlQcow2Image *image, const FlQcow2Params *params, uint64_t size)
{
    const char *why = fl_qcow2_layout_init(&image->layout, params->disk_size, size);

    if (why != NULL)
        return why;
    fl_qcow2_clusters_clear(&image->clusters);
    fl_qcow2_clusters_scan(&image->clusters, params, size);
    if (params->exact && image->clusters.needs_clean)
        return "it would include clean bytes, which this server refuses";
    why = fl_qcow2_layout_place(&image->layout, image->clusters.tables.total,
                                image->clusters.data.total);
    if (why != NULL)
        return why;

    g_clear_pointer(&image->header, g_byte_array_unref);
    image->header = fl_qcow2_header_new(&image->layout, params->backing, params->backing_fmt);
    if (image->header->len > size)
        return "the name of the backing file would not fit into its first cluster";
    return NULL;
}

static bool choose_cluster_size(FlQcow2Image *image, const FlQcow2Params *params, GError **error)
{
    bool given = params->cluster_size != 0;
    uint64_t size = given ? params->cluster_size : preferred_cluster_size(params);
    const char *why;

    while ((why = try_cluster_size(image, params, size)) != NULL) {
        if (given || size == FL_QCOW2_CLUSTER_MAX || (params->exact && image->clusters.needs_clean))
            break;
        size *= 2;
    }
    if (why == NULL)
        return true;
    return fl_fail(error,
                   "a qcow2 of this disk of %" PRIu64 " bytes cannot have clusters of %" PRIu64
                   " bytes: %s: use %s",
                   params->disk_size, size, why, given ? "another cluster size" : "a raw file");
}

static bool check_params(const FlQcow2Params *params, GError **error)
{
    if (params->cluster_size != 0 && !fl_qcow2_cluster_size_valid(params->cluster_size))
        return fl_fail_usage(error,
                             "a cluster size of %" PRIu64
                             " bytes is not possible: use a power of two from 512 to 2M",
                             params->cluster_size);
    if (params->backing != NULL && strlen(params->backing) > MAX_BACKING_NAME)
        return fl_fail_usage(error,
                             "the name of the backing file is too long: use at most %u bytes",
                             MAX_BACKING_NAME);
    if (params->backing_fmt != NULL && strlen(params->backing_fmt) > MAX_BACKING_FMT)
        return fl_fail_usage(error, "'%s' is not a format of a backing file: use raw or qcow2",
                             params->backing_fmt);
    return true;
}

FlView *fl_view_qcow2_new(const FlQcow2Params *params, GError **error)
{
    g_autoptr(FlView) view = fl_view_alloc(sizeof(Qcow2View), &qcow2_ops);
    Qcow2View *qcow2 = (Qcow2View *)view;

    qcow2->alloc = params->alloc != NULL ? fl_map_ref(params->alloc) : NULL;
    qcow2->disk_size = params->disk_size;
    qcow2->whole = params->dirty == NULL && params->backing == NULL;
    if (!check_params(params, error) || !choose_cluster_size(&qcow2->image, params, error))
        return NULL;
    view->size = view->data_bytes = qcow2->image.layout.end;
    return g_steal_pointer(&view);
}

uint64_t fl_view_qcow2_cluster_size(const FlView *view)
{
    return ((const Qcow2View *)view)->image.layout.cluster_size;
}

uint64_t fl_view_qcow2_virtual_size(const FlView *view)
{
    return ((const Qcow2View *)view)->image.layout.virtual_size;
}

/* Bytes of the L2 tables up to the entry of the last cluster that reads as zeros. In a whole disk
 * every entry matters, as zeros are what is not allocated. */
static uint64_t telling_bytes(const Qcow2View *view)
{
    const FlQcow2Layout *layout = &view->image.layout;
    const FlRuns *zero = &view->image.clusters.zero, *tables = &view->image.clusters.tables;
    uint64_t entries = fl_qcow2_entries(layout->cluster_size), last;
    size_t i;

    if (tables->count == 0)
        return 0;
    last = view->whole ? MIN(fl_runs_end(tables, tables->count - 1) * entries,
                             fl_div_up(view->disk_size, layout->cluster_size)) -
                             1
                       : fl_runs_end(zero, zero->count - 1) - 1;
    i = fl_runs_find(tables, last / entries);
    return (tables->run[i].rank + last / entries - tables->run[i].first) * layout->cluster_size +
           (last % entries + 1) * 8;
}

bool fl_view_qcow2_tells_zeros(const FlView *view, const FlCover *read)
{
    const Qcow2View *qcow2 = (const Qcow2View *)view;
    const FlQcow2Layout *layout = &qcow2->image.layout;
    uint64_t l1 = layout->l1_entries * 8, l2;

    if (qcow2->image.clusters.zero.count == 0 && !qcow2->whole)
        return true;
    l2 = telling_bytes(qcow2);
    return fl_cover_bytes(read, layout->l1, layout->l1 + l1) == l1 &&
           fl_cover_bytes(read, layout->l2, layout->l2 + l2) == l2;
}
