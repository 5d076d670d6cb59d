/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text maps: each format as its tool prints it, and error messages. */
#include "source/textmap/textmap.h"

#include "helper.h"

#include <string.h>

#define SIZE (UINT64_C(1) << 20)
#define KIB  UINT64_C(1024)

typedef struct {
    uint64_t end;
    bool dirty;
} Run;

static FlMap *parse(const char *text, uint64_t size, GError **error)
{
    return fl_textmap_parse(text, strlen(text), size, "a.map", error);
}

/* TEXT is a map of SIZE bytes with these RUNS. */
static void assert_map(const char *text, const Run *runs, size_t n)
{
    g_autoptr(FlMapBuilder) builder = fl_map_builder_new();
    g_autoptr(FlMap) expected = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(FlMap) map = parse(text, SIZE, &error);

    g_assert_no_error(error);
    for (size_t i = 0; i < n; i++)
        fl_map_builder_add(builder, runs[i].end - fl_map_builder_size(builder),
                           runs[i].dirty ? FL_DIRTY : 0);
    expected = fl_map_builder_finish(g_steal_pointer(&builder));
    g_assert_cmpuint(fl_map_size(expected), ==, SIZE);
    g_assert_true(fl_map_equal(map, expected));
}

/* TEXT is refused with a message that begins with PLACE and contains WHY. */
static void assert_refused(const char *text, const char *place, const char *why)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(parse(text, SIZE, &error));
    g_assert_error(error, FL_ERROR, FL_ERROR_FAILED);
    if (!g_str_has_prefix(error->message, place) || strstr(error->message, why) == NULL ||
        strchr(error->message, '\n') != NULL)
        g_error("not '%s ... %s': %s", place, why, error->message);
}

static const Run two[] = {{64 * KIB, false}, {192 * KIB, true}, {SIZE, false}};

static void test_nbdinfo(void)
{
    assert_map("         0       65536    0  clean\n"
               "     65536      131072    1  dirty\n"
               "    196608      851968    0  clean\n",
               two, G_N_ELEMENTS(two));
    assert_map("0 65536 0\r\n65536\t131072 1 dirty \n196608 851968 0", two, G_N_ELEMENTS(two));

    assert_refused("", "a.map", "is empty");
    assert_refused("hello\n", "a.map, line 1:", "'hello' is not OFFSET LENGTH TYPE");
    assert_refused("0 1048576 0\n\n", "a.map, line 2:", "is not OFFSET LENGTH TYPE");
    assert_refused("0 65536 0x1\n", "a.map, line 1:", "is not OFFSET");
    assert_refused("0 65536 1dirty\n", "a.map, line 1:", "is not OFFSET");
    assert_refused("0 65536 0 clean\n65536 983040 3 hole,zero\n",
                   "a.map, line 2:", "of a dirty bitmap");
    assert_refused("0 1048576 0 data\n", "a.map, line 1:", "--map=qemu:dirty-bitmap:NAME");
    assert_refused("0 65536 0\n65537 983039 1\n",
                   "a.map, line 2:", "does not cover the bytes from 65536 to 65537");
    assert_refused("4096 1044480 0\n", "a.map, line 1:", "from 0 to 4096");
    assert_refused("0 65536 0\n65535 983041 1\n", "a.map, line 2:", "below 65536");
    assert_refused("0 65536 0\n65536 0 1\n", "a.map, line 2:", "length of 0");
    assert_refused("0 65536 0\n65536 983041 1\n", "a.map, line 2:", "beyond the end of the disk");
    assert_refused("0 65536 0\n65536 9223372036854775807 1\n", "a.map, line 2:", "beyond the end");
    assert_refused("0 9223372036854775808 0\n", "a.map, line 1:", "is not OFFSET");
    assert_refused("0 65536 0\n", "a.map, line 2:", "ends at 65536");
}

static void test_nbdinfo_json(void)
{
    assert_map(
        "[\n{ \"offset\": 0, \"length\": 65536, \"type\": 0, \"description\": \"clean\" },\n"
        "{ \"offset\": 65536, \"length\": 131072, \"type\": 1, \"description\": \"dirty\"},\n"
        "{ \"offset\": 196608, \"length\": 851968, \"type\": 0}\n]\n",
        two, G_N_ELEMENTS(two));
    /* Our own, and oVirt's. */
    assert_map("[{\"start\": 0, \"length\": 65536, \"dirty\": false, \"zero\": true},\n"
               " {\"start\": 65536, \"length\": 65536, \"dirty\": true, \"zero\": false},\n"
               " {\"start\": 131072, \"length\": 65536, \"dirty\": true, \"zero\": true},\n"
               " {\"start\": 196608, \"length\": 851968, \"dirty\": false, \"zero\": true}]",
               two, G_N_ELEMENTS(two));

    assert_refused("[", "a.map, line 1:", "an object { } is expected");
    assert_refused("[{\"offset\": 0, \"length\": 4, \"type\": 1}", "a.map, line 1:", "no end");
    assert_refused("[{\"offset\": 0, \"length\": 4", "a.map, line 1:", "has no end");
    assert_refused("[\n{\"offset\": 0, \"length\": 1048576, \"type\": 1}\n]x",
                   "a.map, line 3:", "text after the array");
    assert_refused("[\n[]]", "a.map, line 2:", "an object { } is expected");
    assert_refused("[{\"offset\": 0,, \"length\": 4, \"type\": 1}]",
                   "a.map, line 1:", "broken JSON");
    assert_refused("[{\"offset\": \"0\", \"length\": 4, \"type\": 1}]",
                   "a.map, line 1:", "not an extent");
    assert_refused("[{\"offset\": 0, \"length\": -4, \"type\": 1}]", "a.map, line 1:", "negative");
    assert_refused("[{\"offset\": 0, \"length\": 1048576, \"type\": 0, \"description\": \"data\"}]",
                   "a.map, line 1:", "of a dirty bitmap");
    assert_refused("[{\"offset\": 0, \"length\": 1048576, \"type\": 4294967297}]",
                   "a.map, line 1:", "of a dirty bitmap");
    assert_refused("[{\"offset\": 0, \"length\": 65536, \"type\": 1},\n"
                   "{\"start\": 65536, \"length\": 983040, \"dirty\": true}]",
                   "a.map, line 2:", "of another kind");
    assert_refused("[{\"offset\": 0, \"length\": 65536, \"type\": 1}]",
                   "a.map, line 1:", "ends at 65536");
}

static void test_ddrescue(void)
{
    assert_map("# Mapfile. Created by GNU ddrescue version 1.27\n"
               "# current_pos  current_status  current_pass\n"
               "0x00000000     ?               1\n"
               "#      pos        size  status\n"
               "0x00000000  0x00010000  ?\n"
               "0x00010000  0x00020000  +\n"
               "0x00030000  0x00050000  -\n"
               "0x00080000  0x00080000  *\n",
               two, G_N_ELEMENTS(two));
    assert_map("0x00000000 +\n0 65536 /\n0X10000 131072 +\n0x00030000 0x000D0000 ?\n", two,
               G_N_ELEMENTS(two));

    assert_refused("# nothing\n", "a.map, line 2:", "ends at 0");
    assert_refused("#\n0x00000000  0x00010000  +\n", "a.map, line 2:", "not the status line");
    assert_refused("0x0 ?\n0x0 0x10000 !\n", "a.map, line 2:", "is not POS SIZE STATUS");
    assert_refused("0x0 ?\n0x0 0x10000 ++\n", "a.map, line 2:", "is not POS SIZE STATUS");
    assert_refused("0x0 ?\n0x0 0x10000\n", "a.map, line 2:", "is not POS SIZE STATUS");
    assert_refused("0x0 ?\n0x0 0x10000 +\n0x20000 0xE0000 ?\n", "a.map, line 3:", "does not cover");
    assert_refused("0x0 ?\n0x0 0x100001 +\n", "a.map, line 2:", "beyond the end");
    assert_refused("0x0 ?\n0x0 0x10000 +\n", "a.map, line 3:", "ends at 65536");
}

static void test_rbd(void)
{
    static const Run zeroed[] = {
        {64 * KIB, false}, {192 * KIB, true}, {512 * KIB, false}, {SIZE, true}};

    assert_map("[{\"offset\":65536,\"length\":65536,\"exists\":\"true\"},"
               "{\"offset\":131072,\"length\":65536,\"exists\":\"false\"},"
               "{\"offset\":524288,\"length\":524288,\"exists\":\"true\"}]\n",
               zeroed, G_N_ELEMENTS(zeroed));
    assert_map("[]", &(Run){SIZE, false}, 1);

    assert_refused("[{\"offset\":0,\"length\":65536,\"exists\":\"maybe\"}]",
                   "a.map, line 1:", "not an extent");
    assert_refused("[{\"offset\":65536,\"length\":65536,\"exists\":\"true\"},\n"
                   "{\"offset\":0,\"length\":65536,\"exists\":\"true\"}]",
                   "a.map, line 2:", "below 131072");
    assert_refused("[{\"offset\":1048576,\"length\":1,\"exists\":\"true\"}]",
                   "a.map, line 1:", "beyond the end of the disk");
}

#define THIN(inside)                                                                               \
    "<superblock uuid=\"\" time=\"2\" transaction=\"3\" data_block_size=\"128\" "                  \
    "nr_data_blocks=\"64\">\n  <diff left=\"1\" right=\"2\">\n" inside                             \
    "\n  </diff>\n</superblock>\n"

static void test_thin_delta(void)
{
    static const Run runs[] = {{64 * KIB, false}, {128 * KIB, true},  {192 * KIB, false},
                               {320 * KIB, true}, {960 * KIB, false}, {SIZE, true}};
    g_autoptr(GError) error = NULL;
    g_autoptr(FlMap) odd = NULL;

    assert_map(THIN("<same begin=\"0\" length=\"1\"/><different begin=\"1\" length=\"1\"/>"
                    "<left_only begin=\"3\" length=\"1\"/><right_only begin=\"4\" length=\"1\"/>"
                    "<same begin=\"5\" length=\"1\"/><different begin=\"15\" length=\"1\"/>"),
               runs, G_N_ELEMENTS(runs));
    /* As --verbose prints it. */
    assert_map(
        THIN("<same>\n<range begin=\"0\" data_begin=\"0\" length=\"1\"/>\n</same>\n<different>\n"
             "<range begin=\"1\" left_data_begin=\"2\" right_data_begin=\"20\" length=\"1\"/>\n"
             "</different>\n<right_only>\n<range begin=\"3\" data_begin=\"30\" length=\"1\"/>\n"
             "<range begin=\"4\" data_begin=\"9\" length=\"1\"/>\n</right_only>\n"
             "<left_only>\n<range begin=\"15\" data_begin=\"30\" length=\"1\"/>\n</left_only>"),
        runs, G_N_ELEMENTS(runs));
    assert_map(THIN(""), &(Run){SIZE, false}, 1);
    /* The last block of a disk whose size is not a multiple of blocks. */
    odd = parse(THIN("<different begin=\"1\" length=\"1\"/>"), 65536 + 512, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(fl_map_bytes(odd, FL_DIRTY, FL_DIRTY), ==, 512);

    assert_refused("<superblock", "a.map, line 1:", "broken XML");
    assert_refused("<a/>", "a.map, line 1:", "unexpected element <a>");
    assert_refused("<superblock data_block_size=\"128\"/>", "a.map, line 1:", "no <diff>");
    assert_refused("<superblock data_block_size=\"0\"/>", "a.map, line 1:", "data_block_size");
    assert_refused("<superblock/>", "a.map, line 1:", "data_block_size");
    assert_refused(THIN("<device/>"), "a.map, line 3:", "unknown element <device>");
    assert_refused(THIN("<same><x/></same>"), "a.map, line 3:", "unexpected element <x>");
    assert_refused(THIN("<same begin=\"1\"/>"), "a.map, line 3:", "numbers are missing");
    assert_refused(THIN("<same begin=\"-1\" length=\"1\"/>"), "a.map, line 3:", "numbers");
    assert_refused(THIN("<different begin=\"3\" length=\"1\"/>\n<same begin=\"3\" length=\"1\"/>"),
                   "a.map, line 4:", "below 262144");
    assert_refused(THIN("<different begin=\"16\" length=\"1\"/>"),
                   "a.map, line 3:", "beyond the end");
    assert_refused(THIN("<different begin=\"15\" length=\"2\"/>"),
                   "a.map, line 3:", "beyond the end");
    assert_refused(THIN("<different begin=\"1\" length=\"9223372036854775807\"/>"),
                   "a.map, line 3:", "too large");
}

/* Our own files can be read back. */
static void test_own(void)
{
    g_autoptr(GRand) rand = test_rand();

    for (int i = 0; i < 200; i++) {
        g_autoptr(FlMapBuilder) builder = fl_map_builder_new();
        g_autoptr(FlMap) map = NULL, back = NULL;
        g_autoptr(GString) text = g_string_new(NULL);
        g_autoptr(GError) error = NULL;

        while (fl_map_builder_size(builder) < SIZE) {
            uint64_t left = SIZE - fl_map_builder_size(builder);
            uint64_t length = 512 * (uint64_t)g_rand_int_range(rand, 1, 500);

            fl_map_builder_add(builder, MIN(left, length), g_rand_boolean(rand) ? FL_DIRTY : 0);
        }
        map = fl_map_builder_finish(g_steal_pointer(&builder));
        if (i % 2 == 0)
            g_string_append(text, "0x0 ? 1\n");
        for (size_t j = 0; j < fl_map_count(map); j++) {
            FlExtent e = fl_map_get(map, j);

            g_string_append_printf(
                text,
                i % 2 == 0 ? "0x%" G_GINT64_MODIFIER "X 0x%" G_GINT64_MODIFIER "X %c\n"
                           : "%20" G_GUINT64_FORMAT " %20" G_GUINT64_FORMAT "  %c\n",
                e.start, e.end - e.start,
                i % 2 == 0 ? (e.type == FL_DIRTY ? '+' : '?') : (e.type == FL_DIRTY ? '1' : '0'));
        }
        back = parse(text->str, SIZE, &error);
        g_assert_no_error(error);
        g_assert_true(fl_map_equal(map, back));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/textmap/nbdinfo", test_nbdinfo);
    g_test_add_func("/textmap/nbdinfo-json", test_nbdinfo_json);
    g_test_add_func("/textmap/ddrescue", test_ddrescue);
    g_test_add_func("/textmap/rbd", test_rbd);
    g_test_add_func("/textmap/thin-delta", test_thin_delta);
    g_test_add_func("/textmap/own", test_own);
    return g_test_run();
}
