/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The qcow2 view at its limits, and against a model that writes the file cluster by cluster. */
#include "view/qcow2-runs.h"
#include "view/qcow2.h"

#include <string.h>

#define COPIED (UINT64_C(1) << 63)

typedef struct {
    size_t size;
    uint8_t *bytes;
    bool *dirty, *zero; /* of each byte */
    FlMap *alloc_map, *dirty_map;
} Disk;

static uint64_t random_below(uint64_t n)
{
    return ((uint64_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int()) % n;
}

/* Extents of random lengths, multiples of UNIT. */
static FlMap *random_map(size_t size, size_t unit, bool *flags, uint32_t type, unsigned one_in)
{
    FlMapBuilder *builder = fl_map_builder_new();

    for (size_t at = 0; at < size;) {
        size_t units = 1 + random_below(random_below(8) == 0 ? 64 : 4);
        size_t n = MIN(size - at, unit * units);
        bool flag = random_below(one_in) == 0;
        g_assert_cmpint(fl_map_builder_add(builder, n, flag ? type : 0), ==, 0);
        memset(flags + at, flag, n);
        at += n;
    }
    return fl_map_builder_finish(builder);
}

static Disk *disk_new(size_t size, size_t dirty_unit, size_t zero_unit)
{
    Disk *disk = g_new0(Disk, 1);

    disk->size = size;
    disk->bytes = g_malloc(size);
    disk->dirty = g_new0(bool, size);
    disk->zero = g_new0(bool, size);
    disk->dirty_map = random_map(size, dirty_unit, disk->dirty, FL_DIRTY, 3);
    disk->alloc_map = random_map(size, zero_unit, disk->zero, FL_ALLOC_ZERO | FL_ALLOC_HOLE, 2);
    for (size_t i = 0; i < size; i++)
        disk->bytes[i] = disk->zero[i] ? 0 : (uint8_t)(i * 2654435761u >> 13 | 1);
    return disk;
}

static void disk_free(Disk *disk)
{
    fl_map_unref(disk->alloc_map);
    fl_map_unref(disk->dirty_map);
    g_free(disk->bytes);
    g_free(disk->dirty);
    g_free(disk->zero);
    g_free(disk);
}

static errint_t read_disk(void *opaque, void *buf, size_t length, uint64_t offset)
{
    const Disk *disk = opaque;

    g_assert_cmpuint(offset + length, <=, disk->size);
    for (size_t i = 0; i < length; i++)
        g_assert_false(disk->zero[offset + i]);
    memcpy(buf, disk->bytes + offset, length);
    return 0;
}

static errint_t read_dirty(void *opaque, void *buf, size_t length, uint64_t offset)
{
    const Disk *disk = opaque;

    for (size_t i = 0; i < length; i++)
        g_assert_true(disk->dirty[offset + i]);
    return read_disk(opaque, buf, length, offset);
}

static void set_be(GByteArray *file, size_t offset, unsigned bytes, uint64_t value)
{
    for (unsigned i = 0; i < bytes; i++)
        file->data[offset + i] = (guint8)(value >> 8 * (bytes - 1 - i));
}

static uint64_t get_be(const uint8_t *data, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes; i++)
        value = value << 8 | data[i];
    return value;
}

/* Appends a cluster of zeros; returns its offset. */
static size_t add_cluster(GByteArray *file, size_t size)
{
    size_t offset = file->len;

    g_byte_array_set_size(file, (guint)(offset + size));
    memset(file->data + offset, 0, size);
    return offset;
}

typedef enum { CLEAN, DATA, ZERO } Kind;

static Kind kind_of(const Disk *disk, const FlQcow2Params *params, size_t start, size_t end)
{
    bool dirty = params->dirty == NULL, zero = true;

    for (size_t i = start; i < MIN(end, disk->size); i++) {
        dirty |= disk->dirty[i];
        zero &= params->alloc != NULL && disk->zero[i];
    }
    if (!dirty || (zero && params->dirty == NULL))
        return CLEAN;
    return zero ? ZERO : DATA;
}

/* The file that the specification requires. */
static GByteArray *model(const Disk *disk, const FlQcow2Params *params, size_t size)
{
    size_t count = (disk->size + size - 1) / size, entries = size / 8;
    size_t l1_entries = (count + entries - 1) / entries,
           l1_clusters = (l1_entries + entries - 1) / entries;
    size_t tables = 0, data = 0, blocks = 0, table_clusters = 0, total, l2_at, data_at, header;
    g_autofree Kind *kinds = g_new0(Kind, l1_entries * entries);
    g_autofree bool *used = g_new0(bool, l1_entries);
    GByteArray *file = g_byte_array_new();

    for (size_t i = 0; i < count; i++) {
        kinds[i] = kind_of(disk, params, i * size, (i + 1) * size);
        used[i / entries] |= kinds[i] != CLEAN;
        data += kinds[i] == DATA;
    }
    for (size_t i = 0; i < l1_entries; i++)
        tables += used[i];
    do {
        blocks++;
        table_clusters = (blocks + entries - 1) / entries;
        total = 1 + table_clusters + blocks + l1_clusters + tables + data;
    } while (blocks * (size / 2) < total);
    l2_at = (total - tables - data) * size;
    data_at = (total - data) * size;

    for (size_t i = 0; i < total; i++)
        add_cluster(file, size);
    set_be(file, 0, 4, 0x514649fb);
    set_be(file, 4, 4, 3);
    set_be(file, 20, 4, (uint64_t)__builtin_ctzll(size));
    set_be(file, 24, 8, (disk->size + 511) / 512 * 512);
    set_be(file, 36, 4, l1_entries);
    set_be(file, 40, 8, l2_at - l1_clusters * size);
    set_be(file, 48, 8, size);
    set_be(file, 56, 4, table_clusters);
    set_be(file, 96, 4, 4);
    set_be(file, 100, 4, 104);
    header = 104;
    if (params->backing != NULL) {
        if (params->backing_fmt != NULL) {
            set_be(file, header, 4, 0xE2792ACA);
            set_be(file, header + 4, 4, strlen(params->backing_fmt));
            memcpy(file->data + header + 8, params->backing_fmt, strlen(params->backing_fmt));
            header += 8 + (strlen(params->backing_fmt) + 7) / 8 * 8;
        }
        header += 8;
        set_be(file, 8, 8, header);
        set_be(file, 16, 4, strlen(params->backing));
        memcpy(file->data + header, params->backing, strlen(params->backing));
    }
    for (size_t i = 0; i < blocks; i++)
        set_be(file, size + i * 8, 8, (1 + table_clusters + i) * size);
    for (size_t i = 0; i < total; i++)
        set_be(file, (1 + table_clusters) * size + i * 2, 2, 1);

    for (size_t t = 0; t < l1_entries; t++) {
        if (!used[t])
            continue;
        set_be(file, get_be(file->data + 40, 8) + t * 8, 8, COPIED | l2_at);
        for (size_t i = 0; i < entries; i++) {
            size_t start = (t * entries + i) * size;
            if (kinds[t * entries + i] == ZERO)
                set_be(file, l2_at + i * 8, 8, 1);
            if (kinds[t * entries + i] != DATA)
                continue;
            set_be(file, l2_at + i * 8, 8, COPIED | data_at);
            memcpy(file->data + data_at, disk->bytes + start, MIN(size, disk->size - start));
            data_at += size;
        }
        l2_at += size;
    }
    return file;
}

/* Gets pieces at every boundary and in between; they must agree. */
static void check_pieces(const FlView *view, const FlQcow2Params *params)
{
    for (uint64_t at = 0; at < view->size;) {
        FlPiece piece = fl_view_piece(view, at);
        uint64_t middle = at + random_below(piece.end - at);
        FlPiece part = fl_view_piece(view, middle);

        g_assert_cmpuint(piece.start, ==, at);
        g_assert_cmpuint(piece.end, >, at);
        g_assert_cmpuint(piece.end, <=, view->size);
        g_assert_cmpint(part.kind, ==, piece.kind);
        g_assert_cmpuint(part.start, ==, middle);
        g_assert_cmpuint(part.end, ==, piece.end);
        if (piece.kind == FL_PIECE_DISK) {
            g_assert_cmpuint(part.disk_offset, ==, piece.disk_offset + middle - at);
            g_assert_cmpuint(piece.disk_offset + piece.end - at, <=, params->disk_size);
        }
        at = piece.end;
    }
}

static void check_against_model(const Disk *disk, const FlQcow2Params *params)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlView) view = fl_view_qcow2_new(params, &error);
    FlReadDisk read = params->exact ? read_dirty : read_disk;
    uint64_t size;
    GByteArray *expected;
    g_autofree uint8_t *buf = NULL;

    g_assert_no_error(error);
    size = fl_view_qcow2_cluster_size(view);
    expected = model(disk, params, size);
    g_assert_cmpuint(view->size, ==, expected->len);
    g_assert_cmpuint(view->data_bytes, ==, view->size);
    g_assert_cmpint(fl_view_seek(view, 5, true), ==, 5);
    g_assert_cmpint(fl_view_seek(view, 5, false), ==, (int64_t)view->size);

    buf = g_malloc(view->size);
    g_assert_cmpint(fl_view_read(view, buf, view->size, 0, read, (void *)disk), ==, 0);
    g_assert_cmpmem(buf, view->size, expected->data, expected->len);
    for (int i = 0; i < 50; i++) {
        uint64_t offset = random_below(view->size);
        size_t most = random_below(2) ? 20 : 200000, n = 1 + random_below(most);

        n = MIN(n, view->size - offset);
        memset(buf, 0xa5, n);
        g_assert_cmpint(fl_view_read(view, buf, n, offset, read, (void *)disk), ==, 0);
        g_assert_cmpmem(buf, n, expected->data + offset, n);
    }
    check_pieces(view, params);
    g_byte_array_unref(expected);
}

static void test_model(void)
{
    static const uint64_t sizes[] = {0, 0, 512, 1024, 4096, 65536, 1 << 20, 2 << 20};

    for (int i = 0; i < 120; i++) {
        uint64_t cluster = sizes[i % G_N_ELEMENTS(sizes)];
        size_t unit = (size_t)1 << random_below(18);
        size_t size = random_below(3) == 0 ? 1 + random_below(3000) : 1 + random_below(600000);
        Disk *disk = disk_new(size, unit, (size_t)1 << random_below(17));
        FlQcow2Params params = {
            .disk_size = size,
            .cluster_size = cluster,
            .alloc = random_below(8) != 0 ? disk->alloc_map : NULL,
        };

        if (params.alloc == NULL)
            memset(disk->zero, 0, size);
        check_against_model(disk, &params);
        params.dirty = disk->dirty_map;
        check_against_model(disk, &params);
        params.backing = "../disk.raw";
        check_against_model(disk, &params);
        params.backing_fmt = "raw";
        params.granularity = random_below(2) == 0 ? unit : 0;
        params.exact = unit >= MAX(cluster, 512);
        check_against_model(disk, &params);
        disk_free(disk);
    }
}

static void test_runs(void)
{
    for (int round = 0; round < 50; round++) {
        FlRuns runs = {0};
        bool member[3000] = {false};
        uint64_t rank = 0;

        for (uint64_t at = random_below(3), end; at < G_N_ELEMENTS(member) - 60; at = end) {
            end = at + 1 + random_below(30);
            fl_runs_add(&runs, at, end);
            memset(member + at, true, end - at);
            /* Sometimes the next one touches or overlaps. */
            end = random_below(3) == 0 ? end - random_below(2) : end + random_below(20);
        }
        fl_runs_trim(&runs);

        for (uint64_t n = 0; n < G_N_ELEMENTS(member); n++) {
            size_t i = fl_runs_find(&runs, n);
            g_assert_true(i == runs.count || fl_runs_end(&runs, i) > n);
            g_assert_true(i == 0 || fl_runs_end(&runs, i - 1) <= n);
            g_assert_cmpint(i < runs.count && runs.run[i].first <= n, ==, member[n]);
            if (!member[n])
                continue;
            g_assert_cmpuint(runs.run[i].rank + n - runs.run[i].first, ==, rank);
            g_assert_cmpuint(fl_runs_select(&runs, rank), ==, i);
            rank++;
        }
        g_assert_cmpuint(rank, ==, runs.total);
        fl_runs_clear(&runs);
    }
}

static FlView *uniform(uint64_t disk_size, uint64_t cluster_size, bool dirty, GError **error)
{
    g_autoptr(FlMap) map = fl_map_new_uniform(disk_size, dirty ? FL_DIRTY : 0);
    FlQcow2Params params = {.dirty = map, .disk_size = disk_size, .cluster_size = cluster_size};

    return fl_view_qcow2_new(&params, error);
}

static void assert_cluster_size(uint64_t disk_size, uint64_t given, bool dirty, uint64_t expected)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlView) view = uniform(disk_size, given, dirty, &error);

    if (expected == 0) {
        g_assert_null(view);
        g_assert_error(error, FL_ERROR, FL_ERROR_FAILED);
        g_test_message("%s", error->message);
        return;
    }
    g_assert_no_error(error);
    g_assert_cmpuint(fl_view_qcow2_cluster_size(view), ==, expected);
    g_assert_cmpuint(fl_view_qcow2_virtual_size(view), ==, (disk_size + 511) / 512 * 512);
}

static void test_limits(void)
{
    const uint64_t gib = 1 << 30, tib = gib << 10, pib = tib << 10;

    assert_cluster_size(0, 0, false, 65536);
    assert_cluster_size(1, 0, true, 65536);
    assert_cluster_size(1, 512, true, 512);
    assert_cluster_size(128 * gib, 512, false, 512);
    assert_cluster_size(128 * gib + 1, 512, false, 0);
    /* Tables need refcounts, too: their limit is reached before that of L1 entries. */
    assert_cluster_size(128 * gib, 512, true, 0);
    assert_cluster_size(8 * tib, 4096, false, 4096);
    assert_cluster_size(8 * tib + 1, 4096, false, 0);
    assert_cluster_size(64 * tib, 0, true, 65536);
    assert_cluster_size(2 * pib, 0, false, 65536);
    assert_cluster_size(2 * pib, 0, true, 131072);
    assert_cluster_size(2 * pib + 1, 0, false, 131072);
    assert_cluster_size(2048 * pib, 0, false, 2 << 20);
    assert_cluster_size(2048 * pib + 1, 0, false, 0);
    assert_cluster_size(INT64_MAX, 0, false, 0);
    assert_cluster_size(64 * pib, 0, true, 0);
    assert_cluster_size(63 * pib, 0, true, 512 << 10);
}

static void assert_usage(const FlQcow2Params *params)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlView) view = fl_view_qcow2_new(params, &error);

    g_assert_null(view);
    g_assert_error(error, FL_ERROR, FL_ERROR_USAGE);
}

static void test_params(void)
{
    g_autofree char *long_name = g_strnfill(1024, 'x');

    assert_usage(&(FlQcow2Params){.disk_size = 512, .cluster_size = 256});
    assert_usage(&(FlQcow2Params){.disk_size = 512, .cluster_size = 4 << 20});
    assert_usage(&(FlQcow2Params){.disk_size = 512, .cluster_size = 3000});
    assert_usage(&(FlQcow2Params){.disk_size = 512, .backing = long_name});
    assert_usage(&(FlQcow2Params){.disk_size = 512, .backing = "a", .backing_fmt = long_name});

    g_assert_true(fl_qcow2_cluster_size_valid(512));
    g_assert_true(fl_qcow2_cluster_size_valid(2 << 20));
    g_assert_false(fl_qcow2_cluster_size_valid(0));
    g_assert_false(fl_qcow2_cluster_size_valid(256));
    g_assert_false(fl_qcow2_cluster_size_valid(513));
    g_assert_false(fl_qcow2_cluster_size_valid(4 << 20));
}

/* A name too long for clusters of the granularity's size gets larger clusters. */
static void test_long_name(void)
{
    g_autofree char *name = g_strnfill(1023, 'x');
    g_autoptr(FlMap) dirty = fl_map_new_uniform(4096, FL_DIRTY);
    FlQcow2Params params = {.dirty = dirty,
                            .disk_size = 4096,
                            .granularity = 512,
                            .backing = name,
                            .backing_fmt = "raw"};
    g_autoptr(GError) error = NULL;
    g_autoptr(FlView) view = fl_view_qcow2_new(&params, &error);
    FlView *none;

    g_assert_no_error(error);
    g_assert_cmpuint(fl_view_qcow2_cluster_size(view), ==, 2048);
    params.cluster_size = 1024;
    none = fl_view_qcow2_new(&params, &error);
    g_assert_null(none);
    g_assert_error(error, FL_ERROR, FL_ERROR_FAILED);
}

static FlMap *three(uint64_t clean, uint64_t dirty, uint64_t rest)
{
    FlMapBuilder *builder = fl_map_builder_new();

    g_assert_cmpint(fl_map_builder_add(builder, clean, 0), ==, 0);
    g_assert_cmpint(fl_map_builder_add(builder, dirty, FL_DIRTY), ==, 0);
    g_assert_cmpint(fl_map_builder_add(builder, rest, 0), ==, 0);
    return fl_map_builder_finish(builder);
}

static void test_choice(void)
{
    static const struct {
        uint64_t clean, dirty, rest, granularity, expected;
    } cases[] = {
        {65536, 65536, 65536, 0, 65536}, {1 << 20, 1 << 20, 1 << 20, 1 << 20, 65536},
        {65536, 4096, 65536, 0, 4096},   {65536, 65536, 65536, 4096, 4096},
        {1000, 65536, 65536, 0, 512},    {65536, 65536, 1000, 0, 65536},
        {512, 512, 512, 65536, 512},     {1 << 20, 16384, 7, 512, 512},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(FlMap) dirty = three(cases[i].clean, cases[i].dirty, cases[i].rest);
        FlQcow2Params params = {
            .dirty = dirty, .disk_size = fl_map_size(dirty), .granularity = cases[i].granularity};
        g_autoptr(FlView) view = fl_view_qcow2_new(&params, NULL);

        g_assert_cmpuint(fl_view_qcow2_cluster_size(view), ==, cases[i].expected);
        /* The bitmap's granularity says nothing about an image of the whole disk. */
        params.dirty = NULL;
        fl_view_unref(view);
        view = fl_view_qcow2_new(&params, NULL);
        g_assert_cmpuint(fl_view_qcow2_cluster_size(view), ==, 65536);
    }
}

/* If clean bytes are refused, a partly dirty cluster is valid only if the rest is known zeros. */
static void test_exact(void)
{
    g_autoptr(FlMap) dirty = three(65536, 4096, 65536 - 4096);
    g_autoptr(FlMap) rest = three(65536 + 4096, 65536 - 4096, 0);
    g_autoptr(GError) error = NULL;
    FlQcow2Params params = {
        .dirty = dirty, .disk_size = 131072, .cluster_size = 65536, .exact = true};
    FlView *view = fl_view_qcow2_new(&params, &error);

    g_assert_null(view);
    g_assert_error(error, FL_ERROR, FL_ERROR_FAILED);
    g_clear_error(&error);

    params.alloc = rest; /* FL_DIRTY is FL_ALLOC_HOLE: a hole that need not read as zeros */
    g_assert_null(fl_view_qcow2_new(&params, NULL));

    params.alloc = NULL;
    params.cluster_size = 0;
    view = fl_view_qcow2_new(&params, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(fl_view_qcow2_cluster_size(view), ==, 4096);
    fl_view_unref(view);
}

static void test_last_of_64_tib(void)
{
    const uint64_t tib64 = UINT64_C(64) << 40, cs = 65536;
    g_autoptr(FlMap) dirty = three(tib64 - cs, cs, 0);
    FlQcow2Params params = {.dirty = dirty, .disk_size = tib64, .backing = "b"};
    g_autoptr(FlView) view = fl_view_qcow2_new(&params, NULL);
    const uint64_t l1_entries = tib64 / cs / 8192, l1 = 3 * cs, l2 = l1 + l1_entries * 8;
    FlPiece piece;
    uint8_t entry[8];

    /* Header, refcount table and block, L1 table, one L2 table, one data cluster. */
    g_assert_cmpuint(view->size, ==, l2 + 2 * cs);
    fl_view_make(view, entry, 8, l2 - 8);
    g_assert_cmphex(get_be(entry, 8), ==, COPIED | l2);
    fl_view_make(view, entry, 8, l2 + cs - 8);
    g_assert_cmphex(get_be(entry, 8), ==, COPIED | (l2 + cs));
    piece = fl_view_piece(view, l2 + cs + 10);
    g_assert_cmpint(piece.kind, ==, FL_PIECE_DISK);
    g_assert_cmpuint(piece.disk_offset, ==, tib64 - cs + 10);
    g_assert_cmpuint(piece.end, ==, view->size);
}

/* A zero cluster in the only L2 table: the L1 table and the entries up to its own reveal it, not
 * the refcounts before or the entries after. */
static void test_tells_zeros(void)
{
    const uint64_t cs = 4096, table = 512 * cs, size = 3 * table;
    g_autoptr(FlMap) dirty = three(table + 5 * cs, cs, size - table - 6 * cs);
    g_autoptr(FlMap) zeros = fl_map_new_uniform(size, FL_ALLOC_ZERO);
    FlQcow2Params params = {
        .alloc = zeros, .dirty = dirty, .disk_size = size, .cluster_size = cs, .backing = "b"};
    g_autoptr(FlView) view = fl_view_qcow2_new(&params, NULL);
    g_autoptr(FlCover) read = fl_cover_new(SIZE_MAX);
    const uint64_t l1 = 3 * cs, l2 = l1 + cs;

    g_assert_cmpuint(view->size, ==, l2 + cs);
    g_assert_false(fl_view_qcow2_tells_zeros(view, read));
    fl_cover_add(read, 0, l1 + 3 * 8);
    g_assert_false(fl_view_qcow2_tells_zeros(view, read));
    fl_cover_add(read, l2, l2 + 5 * 8);
    g_assert_false(fl_view_qcow2_tells_zeros(view, read));
    g_clear_pointer(&read, fl_cover_free);
    read = fl_cover_new(SIZE_MAX);
    fl_cover_add(read, l1, l1 + 3 * 8);
    fl_cover_add(read, l2, l2 + 6 * 8);
    g_assert_true(fl_view_qcow2_tells_zeros(view, read));
}

/* One data cluster in the second of three L1 entries: the rest of the disk is zeros, which all
 * entries of the L1 table and of the only L2 table reveal. */
static void test_whole_tells_zeros(void)
{
    const uint64_t cs = 4096, table = 512 * cs, size = 3 * table;
    g_autoptr(FlMap) zeros = fl_map_new_uniform(size, FL_ALLOC_ZERO);
    FlMapBuilder *builder = fl_map_builder_new();
    g_autoptr(FlMap) data = NULL;
    FlQcow2Params params = {.alloc = zeros, .disk_size = size, .cluster_size = cs};
    g_autoptr(FlView) empty = fl_view_qcow2_new(&params, NULL), view = NULL;
    g_autoptr(FlCover) read = fl_cover_new(SIZE_MAX);
    const uint64_t l1 = 3 * cs, l2 = l1 + cs;

    g_assert_false(fl_view_qcow2_tells_zeros(empty, read));
    fl_cover_add(read, l1, l1 + 3 * 8);
    g_assert_true(fl_view_qcow2_tells_zeros(empty, read));

    g_assert_cmpint(fl_map_builder_add(builder, table + 5 * cs, FL_ALLOC_ZERO), ==, 0);
    g_assert_cmpint(fl_map_builder_add(builder, cs, 0), ==, 0);
    g_assert_cmpint(fl_map_builder_add(builder, size - table - 6 * cs, FL_ALLOC_ZERO), ==, 0);
    params.alloc = data = fl_map_builder_finish(builder);
    view = fl_view_qcow2_new(&params, NULL);
    g_assert_cmpuint(view->size, ==, l2 + 2 * cs);
    g_assert_false(fl_view_qcow2_tells_zeros(view, read));
    fl_cover_add(read, l2, l2 + cs - 8);
    g_assert_false(fl_view_qcow2_tells_zeros(view, read));
    fl_cover_add(read, l2 + cs - 8, l2 + cs);
    g_assert_true(fl_view_qcow2_tells_zeros(view, read));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2/runs", test_runs);
    g_test_add_func("/qcow2/model", test_model);
    g_test_add_func("/qcow2/limits", test_limits);
    g_test_add_func("/qcow2/params", test_params);
    g_test_add_func("/qcow2/long-name", test_long_name);
    g_test_add_func("/qcow2/choice", test_choice);
    g_test_add_func("/qcow2/exact", test_exact);
    g_test_add_func("/qcow2/last-of-64-tib", test_last_of_64_tib);
    g_test_add_func("/qcow2/tells-zeros", test_tells_zeros);
    g_test_add_func("/qcow2/whole-tells-zeros", test_whole_tells_zeros);
    return g_test_run();
}
