/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "blocksize.h"

#include "util/size.h"

#include <string.h>

typedef struct Unaligned Unaligned;

typedef struct {
    FlRead read;
    Unaligned *unaligned;
} Part;

struct Unaligned {
    FlRead *whole; /* the original read */
    char *blocks;
    uint64_t start; /* disk offset of BLOCKS */
    guint waiting;
    errint_t result;
    Part parts[];
};

bool fl_read_is_unaligned(const FlRead *read, const FlExportInfo *info)
{
    uint64_t end = read->offset + read->length;

    return read->length > MAX(info->block_max, info->block_min) ||
           read->offset % info->block_min != 0 || (end % info->block_min != 0 && end != info->size);
}

static void part_done(FlRead *read, errint_t result)
{
    Unaligned *unaligned = ((Part *)read)->unaligned;
    FlRead *whole = unaligned->whole;

    if (unaligned->result == 0)
        unaligned->result = result;
    if (--unaligned->waiting > 0)
        return;
    result = unaligned->result;
    if (result == 0)
        memcpy(whole->buf, unaligned->blocks + (whole->offset - unaligned->start), whole->length);
    g_free(unaligned->blocks);
    g_free(unaligned);
    whole->done(whole, result);
}

bool fl_read_unaligned(FlRead *read, const FlExportInfo *info,
                       void (*read_part)(FlDisk *disk, FlRead *part), FlDisk *disk)
{
    uint64_t block = info->block_min;
    uint64_t start = read->offset / block * block;
    uint64_t end = MIN(fl_div_up(read->offset + read->length, block) * block, info->size);
    uint64_t step = MAX(info->block_max / block, 1) * block;
    guint n = (guint)fl_div_up(end - start, step);
    Unaligned *unaligned = g_try_malloc0(sizeof *unaligned + n * sizeof(Part));
    char *blocks = g_try_malloc(end - start);

    if (unaligned == NULL || blocks == NULL) {
        g_free(unaligned);
        g_free(blocks);
        return false;
    }
    unaligned->whole = read;
    unaligned->blocks = blocks;
    unaligned->start = start;
    unaligned->waiting = n;
    for (guint i = 0; i < n; i++) {
        Part *part = &unaligned->parts[i];
        uint64_t at = start + i * step;

        part->unaligned = unaligned;
        part->read.buf = unaligned->blocks + (at - start);
        part->read.offset = at;
        part->read.length = MIN(end - at, step);
        part->read.ahead = read->ahead;
        part->read.done = part_done;
        read_part(disk, &part->read);
    }
    return true;
}
