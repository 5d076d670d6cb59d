/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "blocksize.h"

#include "util/size.h"

#include <string.h>

typedef struct Awkward Awkward;

typedef struct {
    FlRead read;
    Awkward *awkward;
} Part;

struct Awkward {
    FlRead *whole; /* what was asked for */
    char *blocks;
    uint64_t start; /* of BLOCKS on the disk */
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
    Awkward *awkward = ((Part *)read)->awkward;
    FlRead *whole = awkward->whole;

    if (awkward->result == 0)
        awkward->result = result;
    if (--awkward->waiting > 0)
        return;
    result = awkward->result;
    if (result == 0)
        memcpy(whole->buf, awkward->blocks + (whole->offset - awkward->start), whole->length);
    g_free(awkward->blocks);
    g_free(awkward);
    whole->done(whole, result);
}

bool fl_read_unaligned(FlDisk *disk, FlRead *read)
{
    const FlExportInfo *info = fl_disk_info(disk);
    uint64_t block = info->block_min;
    uint64_t start = read->offset / block * block;
    uint64_t end = MIN(fl_div_up(read->offset + read->length, block) * block, info->size);
    uint64_t step = MAX(info->block_max / block, 1) * block;
    guint n = (guint)fl_div_up(end - start, step);
    Awkward *awkward = g_try_malloc0(sizeof *awkward + n * sizeof(Part));
    char *blocks = g_try_malloc(end - start);

    if (awkward == NULL || blocks == NULL) {
        g_free(awkward);
        g_free(blocks);
        return false;
    }
    awkward->whole = read;
    awkward->blocks = blocks;
    awkward->start = start;
    awkward->waiting = n;
    for (guint i = 0; i < n; i++) {
        Part *part = &awkward->parts[i];
        uint64_t at = start + i * step;

        part->awkward = awkward;
        part->read.buf = awkward->blocks + (at - start);
        part->read.offset = at;
        part->read.length = MIN(end - at, step);
        part->read.ahead = read->ahead;
        part->read.done = part_done;
        fl_disk_read(disk, &part->read);
    }
    return true;
}
