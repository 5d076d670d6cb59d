/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/qcow2-image.h"
#include "util/endian.h"

#include <string.h>

#define SECTOR 512u /* divides every cluster; no table entry crosses a sector boundary */

#define HEADER_LENGTH      104u
#define REFCOUNT_ORDER     4u /* 1 << 4 bits */
#define EXT_END            0u
#define EXT_BACKING_FORMAT 0xE2792ACAu

#define ENTRY_COPIED (UINT64_C(1) << 63) /* the refcount is exactly one */
#define ENTRY_ZERO   UINT64_C(1)         /* reads as zeros, without a cluster in the file */

static void append_be32(GByteArray *array, uint32_t value)
{
    value = GUINT32_TO_BE(value);
    g_byte_array_append(array, (const guint8 *)&value, sizeof value);
}

static void append_be64(GByteArray *array, uint64_t value)
{
    value = GUINT64_TO_BE(value);
    g_byte_array_append(array, (const guint8 *)&value, sizeof value);
}

static void append_extension(GByteArray *array, uint32_t type, const char *text)
{
    static const guint8 padding[8] = {0};
    size_t length = strlen(text);

    append_be32(array, type);
    append_be32(array, (uint32_t)length);
    g_byte_array_append(array, (const guint8 *)text, (guint)length);
    g_byte_array_append(array, padding, -length % sizeof padding);
}

GByteArray *fl_qcow2_header_new(const FlQcow2Layout *layout, const char *backing,
                                const char *backing_fmt)
{
    GByteArray *extensions = g_byte_array_new();
    GByteArray *header = g_byte_array_new();

    if (backing != NULL && backing_fmt != NULL)
        append_extension(extensions, EXT_BACKING_FORMAT, backing_fmt);
    append_extension(extensions, EXT_END, "");

    /* The fields in the order of the spec, section "Header". */
    g_byte_array_append(header, (const guint8 *)"QFI\xfb", 4);
    append_be32(header, 3); /* version */
    append_be64(header, backing != NULL ? HEADER_LENGTH + extensions->len : 0);
    append_be32(header, backing != NULL ? (uint32_t)strlen(backing) : 0);
    append_be32(header, (uint32_t)g_bit_nth_lsf(layout->cluster_size, -1));
    append_be64(header, layout->virtual_size);
    append_be32(header, 0); /* encryption */
    append_be32(header, (uint32_t)layout->l1_entries);
    append_be64(header, layout->l1);
    append_be64(header, layout->refcount_table);
    append_be32(header, (uint32_t)((layout->refcount_block - layout->refcount_table) /
                                   layout->cluster_size));
    append_be32(header, 0); /* snapshots */
    append_be64(header, 0); /* offset of the snapshot table */
    append_be64(header, 0); /* incompatible features */
    append_be64(header, 0); /* compatible features */
    append_be64(header, 0); /* autoclear features */
    append_be32(header, REFCOUNT_ORDER);
    append_be32(header, HEADER_LENGTH);

    g_byte_array_append(header, extensions->data, extensions->len);
    if (backing != NULL)
        g_byte_array_append(header, (const guint8 *)backing, (guint)strlen(backing));
    g_byte_array_unref(extensions);
    return header;
}

/* BUF holds the table entries [FIRST, END). Sets those in RUNS: the entry with rank R gets BASE + R
 * * STEP. */
static void put_entries(uint8_t *buf, uint64_t first, uint64_t end, const FlRuns *runs,
                        uint64_t base, uint64_t step)
{
    for (size_t i = fl_runs_find(runs, first); i < runs->count && runs->run[i].first < end; i++) {
        const FlRun *run = &runs->run[i];
        uint64_t at = MAX(first, run->first), stop = MIN(end, fl_runs_end(runs, i));
        uint64_t value = base + (run->rank + at - run->first) * step;

        for (; at < stop; at++, value += step)
            fl_put_be64(buf + (at - first) * 8, value);
    }
}

static void make_header(const FlQcow2Image *image, uint8_t *buf, size_t length, uint64_t offset)
{
    const GByteArray *header = image->header;

    memset(buf, 0, length);
    if (offset < header->len)
        memcpy(buf, header->data + offset, MIN(length, header->len - (size_t)offset));
}

static void make_refcount_table(const FlQcow2Image *image, uint8_t *buf, size_t length,
                                uint64_t offset)
{
    const FlQcow2Layout *layout = &image->layout;
    uint64_t first = offset / 8;

    memset(buf, 0, length);
    for (uint64_t i = first; i < MIN(first + length / 8, layout->refcount_blocks); i++)
        fl_put_be64(buf + (i - first) * 8, layout->refcount_block + i * layout->cluster_size);
}

/* Every cluster of the file has a refcount of 1. */
static void make_refcount_blocks(const FlQcow2Image *image, uint8_t *buf, size_t length,
                                 uint64_t offset)
{
    uint64_t clusters = image->layout.clusters;
    uint64_t used = clusters - MIN(clusters, offset / 2); /* from the offset on */
    size_t ones = (size_t)MIN(length, used * 2);

    for (size_t i = 0; i < ones; i++)
        buf[i] = i & 1;
    memset(buf + ones, 0, length - ones);
}

static void make_l1(const FlQcow2Image *image, uint8_t *buf, size_t length, uint64_t offset)
{
    uint64_t first = offset / 8;

    memset(buf, 0, length);
    put_entries(buf, first, first + length / 8, &image->clusters.tables,
                ENTRY_COPIED | image->layout.l2, image->layout.cluster_size);
}

/* Tables that are adjacent both in the file and in the L1 table form one array of entries. */
static void make_l2(const FlQcow2Image *image, uint8_t *buf, size_t length, uint64_t offset)
{
    const FlQcow2Layout *layout = &image->layout;
    const FlQcow2Clusters *clusters = &image->clusters;
    const FlRuns *tables = &clusters->tables;
    uint64_t entries = fl_qcow2_entries(layout->cluster_size);
    uint64_t entry = offset / 8, end = entry + length / 8;

    memset(buf, 0, length);
    for (size_t i = fl_runs_select(tables, entry / entries); entry < end; i++) {
        const FlRun *run = &tables->run[i];
        uint64_t stop = MIN(end, (run->rank + fl_runs_length(tables, i)) * entries);
        uint64_t first = (run->first - run->rank) * entries + entry; /* guest cluster */
        uint64_t last = first + (stop - entry);

        put_entries(buf, first, last, &clusters->data, ENTRY_COPIED | layout->data,
                    layout->cluster_size);
        put_entries(buf, first, last, &clusters->zero, ENTRY_ZERO, 0);
        buf += (stop - entry) * 8;
        entry = stop;
    }
}

/* Generates whole sectors, so that no entry is split. */
static void make_sectors(const FlQcow2Image *image, uint8_t *buf, size_t length, uint64_t offset)
{
    const struct {
        uint64_t start, end;
        void (*make)(const FlQcow2Image *image, uint8_t *buf, size_t length, uint64_t offset);
    } parts[] = {
        {0, image->layout.refcount_table, make_header},
        {image->layout.refcount_table, image->layout.refcount_block, make_refcount_table},
        {image->layout.refcount_block, image->layout.l1, make_refcount_blocks},
        {image->layout.l1, image->layout.l2, make_l1},
        {image->layout.l2, image->layout.data, make_l2},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(parts) && length > 0; i++) {
        size_t n;

        if (offset >= parts[i].end)
            continue;
        n = (size_t)MIN(length, parts[i].end - offset);
        parts[i].make(image, buf, n, offset - parts[i].start);
        buf += n;
        length -= n;
        offset += n;
    }
}

void fl_qcow2_make(const FlQcow2Image *image, void *buf, size_t length, uint64_t offset)
{
    uint8_t *out = buf;

    while (length > 0) {
        size_t skip = (size_t)(offset % SECTOR), n = length - length % SECTOR;

        if (skip == 0 && n > 0) {
            make_sectors(image, out, n, offset);
        } else {
            uint8_t sector[SECTOR];
            n = MIN(length, SECTOR - skip);
            make_sectors(image, sector, SECTOR, offset - skip);
            memcpy(out, sector + skip, n);
        }
        out += n;
        length -= n;
        offset += n;
    }
}
