/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stored/files.h"
#include "util/size.h"
#include "util/endian.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define MAGIC         0x514649fbu
#define VERSION       3u
#define HEADER_LENGTH 104u
#define DATA_FILE     UINT64_C(4) /* incompatible feature */
#define COPIED        (UINT64_C(1) << 63)
#define SMALLEST      9u
#define LARGEST       16u
#define L1_MAX        (UINT64_C(4) << 20) /* entries */
/* Bytes of all L2 tables, which go into a temporary file: enough for 16 TiB of dirty clusters of
 * 64 KiB. A raw file may be a hole of exabytes. */
#define L2_MAX (UINT64_C(2) << 30)

/* Layout: header, refcount table (empty) and L1 table, each in one or more clusters; then the L2
 * tables that are needed, in order. */
typedef struct {
    int fd;
    const FlMap *map;
    unsigned bits;
    uint64_t cluster, per_table; /* per_table: bytes of the disk per L2 table */
    uint64_t l1_entries, l1_offset, l2_offset;
} Overlay;

/* Chooses the largest cluster size to which all ranges are aligned; the disk's end need not be. */
static unsigned choose_bits(const FlMap *map)
{
    uint64_t bounds = UINT64_C(1) << LARGEST;

    for (size_t i = 1; i < fl_map_count(map); i++)
        bounds |= fl_map_get(map, i).start;
    return (unsigned)__builtin_ctzll(bounds);
}

static bool write_at(int fd, const void *buf, size_t length, uint64_t offset, GError **error)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(fd, (const char *)buf + done, length - done, (off_t)(offset + done));

        if (n < 0 && errno != EINTR)
            return fl_fail(error, "cannot write the tables of an increment: %s", g_strerror(errno));
        done += (size_t)MAX(n, 0);
    }
    return true;
}

static bool write_header(const Overlay *overlay, GError **error)
{
    uint8_t header[HEADER_LENGTH + 8] = {0}; /* and the end marker of header extensions */

    fl_put_be32(header, MAGIC);
    fl_put_be32(header + 4, VERSION);
    fl_put_be32(header + 20, overlay->bits);
    fl_put_be64(header + 24, fl_div_up(fl_map_size(overlay->map), 512) * 512);
    fl_put_be32(header + 36, (uint32_t)overlay->l1_entries);
    fl_put_be64(header + 40, overlay->l1_offset);
    fl_put_be64(header + 48, overlay->cluster); /* refcount table, one cluster */
    fl_put_be32(header + 56, 1);
    fl_put_be64(header + 72, DATA_FILE);
    fl_put_be32(header + 96, 4); /* refcount_order: 16 bits */
    fl_put_be32(header + 100, HEADER_LENGTH);
    return write_at(overlay->fd, header, sizeof header, 0, error);
}

/* The L2 table that is being filled. */
typedef struct {
    uint64_t *entries, index, offset; /* index: UINT64_MAX: none yet */
} Table;

static bool flush(const Overlay *overlay, Table *table, uint64_t *l1, GError **error)
{
    if (table->index == UINT64_MAX)
        return true;
    l1[table->index] = GUINT64_TO_BE(table->offset | COPIED);
    if (!write_at(overlay->fd, table->entries, overlay->cluster, table->offset, error))
        return false;
    table->offset += overlay->cluster;
    memset(table->entries, 0, overlay->cluster);
    return true;
}

/* Maps the clusters of [START, END) to the same offsets of the data file. */
static bool add_range(const Overlay *overlay, Table *table, uint64_t *l1, uint64_t start,
                      uint64_t end, GError **error)
{
    for (uint64_t at = start; at < end; at += overlay->cluster) {
        uint64_t index = at / overlay->per_table;

        if (index != table->index && !flush(overlay, table, l1, error))
            return false;
        table->index = index;
        table->entries[at % overlay->per_table / overlay->cluster] = GUINT64_TO_BE(at | COPIED);
    }
    return true;
}

static bool write_tables(const Overlay *overlay, GError **error)
{
    g_autofree uint64_t *l1 = g_new0(uint64_t, overlay->l1_entries);
    g_autofree uint64_t *entries = g_malloc0(overlay->cluster);
    Table table = {.entries = entries, .index = UINT64_MAX, .offset = overlay->l2_offset};

    for (size_t i = 0; i < fl_map_count(overlay->map); i++) {
        FlExtent extent = fl_map_get(overlay->map, i);

        if (extent.type == FL_DIRTY &&
            !add_range(overlay, &table, l1, extent.start, extent.end, error))
            return false;
    }
    /* The file ends with a whole cluster, even without L2 tables. */
    return flush(overlay, &table, l1, error) &&
           write_at(overlay->fd, l1, overlay->l1_entries * 8, overlay->l1_offset, error) &&
           (ftruncate(overlay->fd, (off_t)table.offset) == 0 ||
            fl_fail(error, "cannot write the tables of an increment: %s", g_strerror(errno)));
}

/* Returns the bytes of the L2 tables that are needed. */
static uint64_t count_l2(const Overlay *overlay)
{
    uint64_t tables = 0, next = 0; /* next: the first table that is not counted yet */

    for (size_t i = 0; i < fl_map_count(overlay->map); i++) {
        FlExtent extent = fl_map_get(overlay->map, i);
        uint64_t first = MAX(extent.start / overlay->per_table, next);
        uint64_t end = fl_div_up(extent.end, overlay->per_table);

        if (extent.type != FL_DIRTY || end <= first)
            continue;
        tables += end - first;
        next = end;
    }
    return tables * overlay->cluster;
}

bool fl_overlay_write(int fd, const FlMap *map, GError **error)
{
    Overlay overlay = {.fd = fd, .map = map, .bits = choose_bits(map)};

    if (overlay.bits < SMALLEST)
        return fl_fail(error, "its map has ranges that are not whole sectors");
    overlay.cluster = UINT64_C(1) << overlay.bits;
    overlay.per_table = overlay.cluster / 8 * overlay.cluster;
    overlay.l1_entries = fl_div_up(fl_map_size(map), overlay.per_table);
    if (overlay.l1_entries > L1_MAX)
        return fl_fail(error, "its map is too fine for a disk of this size: restore it with "
                              "fleecefs-restore");
    if (count_l2(&overlay) > L2_MAX)
        return fl_fail(error,
                       "its map needs tables of more than %u GiB: restore it with "
                       "fleecefs-restore",
                       (unsigned)(L2_MAX >> 30));
    overlay.l1_offset = 2 * overlay.cluster;
    overlay.l2_offset =
        overlay.l1_offset + fl_div_up(overlay.l1_entries * 8, overlay.cluster) * overlay.cluster;
    return write_header(&overlay, error) && write_tables(&overlay, error);
}
