/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Partition tables: handmade MBRs that no tool would create. tests/e2e/partitions.py tests tables
 * created by tools. */
#include "disk/table.h"
#include "helper.h"

#include <string.h>

#define SECTOR 512u
#define MIB    (UINT64_C(1) << 20)

/* A disk that is zero except for a few sectors. */
typedef struct {
    uint64_t size;
    GHashTable *sectors; /* number of the sector -> 512 bytes */
} Disk;

static Disk *disk_new(uint64_t size)
{
    Disk *disk = g_new(Disk, 1);

    disk->size = size;
    disk->sectors = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    return disk;
}

static void disk_free(Disk *disk)
{
    g_hash_table_unref(disk->sectors);
    g_free(disk);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Disk, disk_free)

/* Entry INDEX of the table in sector AT; START and LENGTH are sectors. */
static void put(Disk *disk, uint64_t at, unsigned index, uint8_t type, uint32_t start,
                uint32_t length)
{
    uint8_t *sector = g_hash_table_lookup(disk->sectors, GUINT_TO_POINTER(at)), *entry;

    if (sector == NULL) {
        sector = g_malloc0(SECTOR);
        g_hash_table_insert(disk->sectors, GUINT_TO_POINTER(at), sector);
        sector[510] = 0x55;
        sector[511] = 0xAA;
    }
    entry = sector + 446 + 16 * (size_t)index;
    entry[4] = type;
    start = GUINT32_TO_LE(start);
    length = GUINT32_TO_LE(length);
    memcpy(entry + 8, &start, sizeof start);
    memcpy(entry + 12, &length, sizeof length);
}

/* Reads the table of DISK; TIMES is the number of requests for more sectors. */
static FlTable *read_table(const Disk *disk, uint32_t sector, unsigned *times)
{
    FlTable *table = fl_table_new(disk->size, sector);
    uint64_t offset;
    size_t length;

    *times = 0;
    while (fl_table_wants(table, &offset, &length)) {
        g_autofree uint8_t *bytes = g_malloc0(length);

        g_assert_cmpuint(length, >, 0);
        g_assert_cmpuint(length, <=, FL_TABLE_MAX);
        g_assert_cmpuint(offset, <, disk->size);
        g_assert_cmpuint(length, <=, disk->size - offset);
        g_assert_cmpuint(++*times, <, 1000);
        for (size_t i = 0; i < length; i += SECTOR) {
            const void *from =
                g_hash_table_lookup(disk->sectors, GUINT_TO_POINTER((offset + i) / SECTOR));
            if (from != NULL)
                memcpy(bytes + i, from, MIN(SECTOR, length - i));
        }
        fl_table_feed(table, bytes);
    }
    return table;
}

/* "1 2048+4096 0x83; ...", in sectors, followed by what was left out. */
static char *describe(const FlTable *table)
{
    GString *text = g_string_new(fl_table_kind(table));

    for (guint i = 0; i < fl_table_partitions(table)->len; i++) {
        const FlPartition *partition = fl_table_partitions(table)->pdata[i];
        g_string_append_printf(text, "; %u %" G_GUINT64_FORMAT "+%" G_GUINT64_FORMAT " %s",
                               partition->number, partition->start / SECTOR,
                               partition->length / SECTOR, partition->type);
    }
    for (guint i = 0; i < fl_table_left_out(table)->len; i++)
        g_string_append_printf(text, "; %s", (char *)fl_table_left_out(table)->pdata[i]);
    return g_string_free(text, FALSE);
}

static void assert_table(const Disk *disk, uint32_t sector, const char *expected)
{
    unsigned times;
    g_autoptr(FlTable) table = read_table(disk, sector, &times);
    g_autofree char *found = describe(table);

    g_assert_cmpstr(found, ==, expected);
}

static void test_none(void)
{
    static const uint64_t sizes[] = {0, 1, 511, 512, 4095, 65536, INT64_MAX};

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(Disk) disk = disk_new(sizes[i]);
        assert_table(disk, 0, "");
    }
}

static void test_primary(void)
{
    g_autoptr(Disk) disk = disk_new(100 * MIB);

    put(disk, 0, 0, 0x83, 2048, 4096);
    put(disk, 0, 3, 0x07, 8192, 100 * 2048 - 8192);
    assert_table(disk, 0, "dos; 1 2048+4096 0x83; 4 8192+196608 0x07");
    assert_table(disk, 1, "dos; 1 2048+4096 0x83; 4 8192+196608 0x07");
    /* Retries with sectors of 4096 bytes if partitions would not fit. */
    assert_table(disk, 4096, "dos; 1 2048+4096 0x83; 4 8192+196608 0x07");
    put(disk, 0, 3, 0x07, 8192, 1024);
    assert_table(disk, 4096, "dos; 1 16384+32768 0x83; 4 65536+8192 0x07");
}

static void test_logical(void)
{
    g_autoptr(Disk) disk = disk_new(UINT64_C(1) << 40);
    uint32_t far = 1u << 30;

    put(disk, 0, 0, 0x83, 2048, 2048);
    put(disk, 0, 1, 0x0f, 10000, far + 100000);
    put(disk, 10000, 0, 0x83, 63, 1000);
    put(disk, 10000, 1, 0x05, far, 5000); /* a long way off */
    put(disk, 10000 + far, 0, 0x82, 64, 2000);
    put(disk, 10000 + far, 1, 0x05, 20000, 5000); /* and back */
    put(disk, 30000, 1, 0x05, 40000, 5000);       /* a link without a partition */
    put(disk, 50000, 0, 0x8e, 8, 16);
    assert_table(disk, 0,
                 "dos; 1 2048+2048 0x83; 5 10063+1000 0x83; 6 1073751888+2000 0x82; "
                 "7 50008+16 0x8e");
}

static void test_circular_links(void)
{
    g_autoptr(Disk) disk = disk_new(100 * MIB);
    g_autoptr(FlTable) table = NULL;
    unsigned times;

    put(disk, 0, 0, 0x05, 2048, 100000);
    put(disk, 2048, 1, 0x05, 3000, 100);
    put(disk, 5048, 0, 0x83, 1, 50);
    put(disk, 5048, 1, 0x05, 3000, 100); /* itself */
    table = read_table(disk, 0, &times);
    g_assert_cmpuint(times, <, 100);
    g_assert_cmpuint(fl_table_partitions(table)->len, ==, 1);
}

static void test_left_out(void)
{
    g_autoptr(Disk) disk = disk_new(100 * MIB);

    put(disk, 0, 0, 0x83, 2048, 4096);
    put(disk, 0, 1, 0x83, 6143, 100);
    put(disk, 0, 2, 0x83, 6144, UINT32_MAX);
    put(disk, 0, 3, 0x05, 10000, 1000);
    put(disk, 10000, 0, 0x83, 900, 101);
    put(disk, 10000, 1, 0x05, 999, 5);
    put(disk, 10999, 0, 0x83, 1, 1);
    assert_table(disk, 0,
                 "dos; 1 2048+4096 0x83; 2: overlaps another; 3: extends beyond the disk; "
                 "5: extends beyond the extended partition; "
                 "6: extends beyond the extended partition");
}

/* Random tables: parsing ends, and all partitions lie on the disk. */
static void test_random(void)
{
    g_autoptr(GRand) rand = test_rand();

    for (unsigned round = 0; round < 2000; round++) {
        uint32_t sectors = 1u << g_rand_int_range(rand, 4, 20);
        g_autoptr(Disk) disk = disk_new((uint64_t)sectors * SECTOR);
        g_autoptr(FlTable) table = NULL;
        uint64_t end = 0;
        unsigned times;

        for (unsigned i = 0; i < 40; i++) {
            uint32_t at = i < 4 ? 0 : g_rand_int(rand) % sectors;
            put(disk, at, i % 4, g_rand_boolean(rand) ? 0x83 : 0x05, g_rand_int(rand) % sectors,
                g_rand_int(rand) % sectors);
        }
        table = read_table(disk, g_rand_boolean(rand) ? 4096 : 0, &times);
        g_assert_cmpuint(times, <, 100);
        for (guint i = 0; i < fl_table_partitions(table)->len; i++) {
            const FlPartition *partition = fl_table_partitions(table)->pdata[i];
            g_assert_cmpuint(partition->start, <, disk->size);
            g_assert_cmpuint(partition->length, <=, disk->size - partition->start);
            end += partition->length;
        }
        g_assert_cmpuint(end, <=, disk->size); /* none overlap */
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/table/none", test_none);
    g_test_add_func("/table/primary", test_primary);
    g_test_add_func("/table/logical", test_logical);
    g_test_add_func("/table/links-that-go-round", test_circular_links);
    g_test_add_func("/table/left-out", test_left_out);
    g_test_add_func("/table/random", test_random);
    return g_test_run();
}
