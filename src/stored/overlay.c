/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stored/files.h"
#include "util/size.h"

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

/* The header, the table of reference counts, which is empty, and the L1 table, a cluster or more
 * each; then the L2 tables that there are, in order. */
typedef struct {
    int fd;
    const FlMap *map;
    unsigned bits;
    uint64_t cluster, per_table; /* per_table: bytes of the disk that an L2 table is about */
    uint64_t l1_entries, l1_offset, l2_offset;
} Overlay;

/* The largest clusters of which all ranges consist; a disk may end in the middle of one. */
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

static void put32(uint8_t *bytes, uint32_t value)
{
    value = GUINT32_TO_BE(value);
    memcpy(bytes, &value, sizeof value);
}

static void put64(uint8_t *bytes, uint64_t value)
{
    value = GUINT64_TO_BE(value);
    memcpy(bytes, &value, sizeof value);
}

static bool write_header(const Overlay *overlay, GError **error)
{
    uint8_t header[HEADER_LENGTH + 8] = {0}; /* and the end of its extensions */

    put32(header, MAGIC);
    put32(header + 4, VERSION);
    put32(header + 20, overlay->bits);
    put64(header + 24, fl_div_up(fl_map_size(overlay->map), 512) * 512);
    put32(header + 36, (uint32_t)overlay->l1_entries);
    put64(header + 40, overlay->l1_offset);
    put64(header + 48, overlay->cluster); /* reference counts: one cluster of them */
    put32(header + 56, 1);
    put64(header + 72, DATA_FILE);
    put32(header + 96, 4); /* reference counts have 16 bits */
    put32(header + 100, HEADER_LENGTH);
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

/* Enters the clusters of [START, END), each of which is where it is on the disk. */
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
    /* The file ends with a whole cluster, also where there are no L2 tables. */
    return flush(overlay, &table, l1, error) &&
           write_at(overlay->fd, l1, overlay->l1_entries * 8, overlay->l1_offset, error) &&
           (ftruncate(overlay->fd, (off_t)table.offset) == 0 ||
            fl_fail(error, "cannot write the tables of an increment: %s", g_strerror(errno)));
}

bool fl_overlay_write(int fd, const FlMap *map, GError **error)
{
    Overlay overlay = {.fd = fd, .map = map, .bits = choose_bits(map)};

    if (overlay.bits < SMALLEST)
        return fl_fail(error, "its map has ranges that are no whole sectors");
    overlay.cluster = UINT64_C(1) << overlay.bits;
    overlay.per_table = overlay.cluster / 8 * overlay.cluster;
    overlay.l1_entries = fl_div_up(fl_map_size(map), overlay.per_table);
    if (overlay.l1_entries > L1_MAX)
        return fl_fail(error, "its map is too fine for a disk of this size: restore it with "
                              "fleecefs-restore");
    overlay.l1_offset = 2 * overlay.cluster;
    overlay.l2_offset =
        overlay.l1_offset + fl_div_up(overlay.l1_entries * 8, overlay.cluster) * overlay.cluster;
    return write_header(&overlay, error) && write_tables(&overlay, error);
}
