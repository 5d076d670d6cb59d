/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/volume.h"

#include <string.h>

typedef struct {
    FlVolumePart part;
    uint64_t start; /* offset in the volume */
} Part;

typedef struct {
    FlView view;
    FlMap *alloc; /* owned, may be NULL */
    Part *parts;
    unsigned n_parts;
} VolumeView;

static const Part *find_part(const VolumeView *volume, uint64_t offset)
{
    unsigned low = 0, high = volume->n_parts;

    while (high - low > 1) {
        unsigned middle = low + (high - low) / 2;

        if (volume->parts[middle].start <= offset)
            low = middle;
        else
            high = middle;
    }
    return &volume->parts[low];
}

/* The disk offset of OFFSET of the volume; contiguous from there to the end of its stripe. */
static uint64_t disk_offset(const Part *part, uint64_t offset, uint64_t *end)
{
    uint64_t at = offset - part->start, chunk = at / part->part.stripe;
    uint64_t in_stripe = at % part->part.stripe;

    *end = offset - in_stripe + part->part.stripe;
    return part->part.areas[chunk % part->part.n] + chunk / part->part.n * part->part.stripe +
           in_stripe;
}

static bool is_zero(FlExtent extent)
{
    return (extent.type & FL_ALLOC_ZERO) != 0;
}

static FlPiece volume_piece(const FlView *view, uint64_t offset)
{
    const VolumeView *volume = (const VolumeView *)view;
    FlPiece piece = {.kind = FL_PIECE_DISK, .start = offset};

    piece.disk_offset = disk_offset(find_part(volume, offset), offset, &piece.end);
    if (volume->alloc != NULL) {
        FlExtent extent = fl_map_get(volume->alloc, fl_map_find(volume->alloc, piece.disk_offset));

        piece.kind = is_zero(extent) ? FL_PIECE_ZERO : FL_PIECE_DISK;
        piece.end = MIN(piece.end, offset + (extent.end - piece.disk_offset));
    }
    return piece;
}

/* The first offset of the volume at or after OFFSET that lies in area INDEX of PART and is data
 * (DATA) or not; the end of PART if there is none. */
static uint64_t seek_area(const VolumeView *volume, const Part *part, unsigned index,
                          uint64_t offset, bool data)
{
    uint64_t stripe = part->part.stripe, start = part->part.areas[index];
    uint64_t end = start + part->part.length / part->part.n;
    uint64_t chunk = (offset - part->start) / stripe, row = chunk / part->part.n;
    unsigned here = (unsigned)(chunk % part->part.n);
    uint64_t at = start + row * stripe, in_area;

    if (index == here)
        at += (offset - part->start) % stripe;
    else if (index < here)
        at += stripe;
    for (size_t i = at < end ? fl_map_find(volume->alloc, at) : 0; at < end; i++) {
        FlExtent extent = fl_map_get(volume->alloc, i);

        if (is_zero(extent) != data) {
            in_area = at - start;
            return part->start + (in_area / stripe * part->part.n + index) * stripe +
                   in_area % stripe;
        }
        at = extent.end;
    }
    return part->start + part->part.length;
}

static uint64_t volume_seek(const FlView *view, uint64_t offset, bool data)
{
    const VolumeView *volume = (const VolumeView *)view;
    const Part *end = volume->parts + volume->n_parts;

    if (volume->alloc == NULL)
        return data ? offset : view->size;
    for (const Part *part = find_part(volume, offset); part < end; part++) {
        uint64_t part_end = part->start + part->part.length, found = part_end;

        for (unsigned i = 0; i < part->part.n; i++)
            found = MIN(found, seek_area(volume, part, i, MAX(offset, part->start), data));
        if (found < part_end)
            return found;
    }
    return view->size;
}

static void volume_clear(FlView *view)
{
    VolumeView *volume = (VolumeView *)view;

    fl_map_unref(volume->alloc);
    for (unsigned i = 0; i < volume->n_parts; i++)
        g_free(volume->parts[i].part.areas);
    g_free(volume->parts);
}

static const FlViewOps volume_ops = {
    .piece = volume_piece, .seek = volume_seek, .clear = volume_clear};

/* The number of data bytes in [START, END) of the disk. */
static uint64_t data_in(const FlMap *alloc, uint64_t start, uint64_t end)
{
    uint64_t bytes = 0;

    if (alloc == NULL)
        return end - start;
    for (size_t i = fl_map_find(alloc, start); start < end; i++) {
        FlExtent extent = fl_map_get(alloc, i);

        if (!is_zero(extent))
            bytes += MIN(extent.end, end) - start;
        start = extent.end;
    }
    return bytes;
}

FlView *fl_view_volume_new(FlMap *alloc, const FlVolumePart *parts, unsigned n_parts)
{
    FlView *view = fl_view_alloc(sizeof(VolumeView), &volume_ops);
    VolumeView *volume = (VolumeView *)view;

    volume->alloc = alloc != NULL ? fl_map_ref(alloc) : NULL;
    volume->parts = g_new0(Part, n_parts);
    volume->n_parts = n_parts;
    for (unsigned i = 0; i < n_parts; i++) {
        const FlVolumePart *part = &parts[i];

        volume->parts[i] = (Part){.part = *part, .start = view->size};
        volume->parts[i].part.areas = g_memdup2(part->areas, part->n * sizeof *part->areas);
        view->size += part->length;
        for (unsigned j = 0; j < part->n; j++)
            view->data_bytes +=
                data_in(alloc, part->areas[j], part->areas[j] + part->length / part->n);
    }
    return view;
}
