/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text views against models that print the whole file. */
#include "helper.h"

#include "map/join.h"
#include "view/bytes.h"
#include "view/ddrescue.h"
#include "view/json.h"
#include "view/mapfile.h"

#include <json-glib/json-glib.h>

static void test_bytes(void)
{
    g_autoptr(GRand) rand = test_rand();
    g_autoptr(GBytes) bytes = g_bytes_new_static("{\"size\": 1}\n", 12);
    g_autoptr(GBytes) nothing = g_bytes_new_static("", 0);
    g_autoptr(FlView) view = fl_view_bytes_new(bytes);
    g_autoptr(FlView) empty = fl_view_bytes_new(nothing);

    assert_text_view(view, "{\"size\": 1}\n", rand);
    assert_text_view(empty, "", rand);
}

static void test_context_kind(void)
{
    g_assert_cmpint(fl_context_kind("base:allocation"), ==, FL_CONTEXT_ALLOCATION);
    g_assert_cmpint(fl_context_kind("qemu:dirty-bitmap:b"), ==, FL_CONTEXT_DIRTY);
    g_assert_cmpint(fl_context_kind("qemu:allocation-depth"), ==, FL_CONTEXT_DEPTH);
    g_assert_cmpint(fl_context_kind("base:allocation2"), ==, FL_CONTEXT_OTHER);
    g_assert_cmpint(fl_context_kind(""), ==, FL_CONTEXT_OTHER);
}

/* The words that nbdinfo 1.14 prints. */
static char *describe(FlContextKind kind, uint32_t type)
{
    static const char *const words[][4] = {
        [FL_CONTEXT_ALLOCATION] = {"data", "hole", "zero", "hole,zero"},
        [FL_CONTEXT_DIRTY] = {"clean", "dirty", "", ""},
        [FL_CONTEXT_DEPTH] = {"absent", "local", "backing depth 2", "backing depth 3"},
        [FL_CONTEXT_OTHER] = {"", "", "", ""},
    };

    if (type < 4)
        return g_strdup(words[kind][type]);
    return kind == FL_CONTEXT_DEPTH ? g_strdup_printf("backing depth %u", type) : g_strdup("");
}

static char *model_map(const FlMap *map, FlContextKind kind)
{
    static const int widths[] = {9, 5, 24, 0};
    GString *out = g_string_new(NULL);

    for (size_t i = 0; i < fl_map_count(map); i++) {
        FlExtent e = fl_map_get(map, i);
        g_autofree char *description = describe(kind, e.type);

        g_string_append_printf(
            out, "%20" G_GUINT64_FORMAT "  %20" G_GUINT64_FORMAT "  %10u%s%-*s\n", e.start,
            e.end - e.start, e.type, widths[kind] > 0 ? "  " : "", widths[kind], description);
    }
    return g_string_free(out, FALSE);
}

static void assert_map_view(FlMap *map, GRand *rand)
{
    for (int kind = FL_CONTEXT_ALLOCATION; kind <= FL_CONTEXT_OTHER; kind++) {
        g_autoptr(FlView) view = fl_view_map_new(map, (FlContextKind)kind);
        g_autofree char *expected = model_map(map, (FlContextKind)kind);

        assert_text_view(view, expected, rand);
    }
}

static char *model_json(const FlMap *alloc, const FlMap *dirty, uint64_t size)
{
    GString *out = g_string_new("[\n");
    FlJoin join;
    FlRange range;
    bool first = true;

    fl_join_init(&join, alloc, dirty, size, 0,
                 dirty != NULL ? FL_JOIN_DIRTY | FL_JOIN_ZERO : FL_JOIN_ZERO | FL_JOIN_HOLE);
    while (fl_join_next(&join, &range)) {
        g_string_append_printf(out,
                               "%s{\"start\": %" G_GUINT64_FORMAT ", \"length\": %" G_GUINT64_FORMAT
                               ", \"%s\": %s, \"%s\": %s}",
                               first ? "" : ",\n", range.start, range.end - range.start,
                               dirty != NULL ? "dirty" : "zero",
                               (dirty != NULL ? range.dirty : range.zero) ? "true" : "false",
                               dirty != NULL ? "zero" : "hole",
                               (dirty != NULL ? range.zero : range.hole) ? "true" : "false");
        first = false;
    }
    g_string_append(out, first ? "]\n" : "\n]\n");
    return g_string_free(out, FALSE);
}

/* Parses the file: valid JSON whose extents cover the disk and agree with the maps.
 */
static void assert_json_means(const char *text, const FlMap *alloc, const FlMap *dirty,
                              uint64_t size)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) error = NULL;
    JsonArray *array;
    uint64_t at = 0;

    json_parser_load_from_data(parser, text, -1, &error);
    g_assert_no_error(error);
    array = json_node_get_array(json_parser_get_root(parser));
    for (guint i = 0; i < json_array_get_length(array); i++) {
        JsonObject *object = json_array_get_object_element(array, i);
        uint64_t start = (uint64_t)json_object_get_int_member(object, "start");
        uint64_t length = (uint64_t)json_object_get_int_member(object, "length");

        g_assert_cmpuint(start, ==, at);
        g_assert_cmpuint(length, >, 0);
        at += length;
        for (unsigned end = 0; end < 2; end++) {
            uint64_t offset = end ? at - 1 : start;
            uint32_t type = alloc != NULL ? fl_map_get(alloc, fl_map_find(alloc, offset)).type : 0;

            g_assert_cmpint(json_object_get_boolean_member(object, "zero"), ==,
                            (type & FL_ALLOC_ZERO) != 0);
            if (dirty == NULL) {
                g_assert_cmpint(json_object_get_boolean_member(object, "hole"), ==,
                                (type & FL_ALLOC_HOLE) != 0);
                continue;
            }
            type = fl_map_get(dirty, fl_map_find(dirty, offset)).type;
            g_assert_cmpint(json_object_get_boolean_member(object, "dirty"), ==,
                            (type & FL_DIRTY) != 0);
        }
    }
    g_assert_cmpuint(at, ==, size);
}

static void assert_json_view(FlMap *alloc, FlMap *dirty, uint64_t size, GRand *rand)
{
    g_autoptr(FlView) view = fl_view_json_new(alloc, dirty, size);
    g_autofree char *expected = model_json(alloc, dirty, size);

    assert_text_view(view, expected, rand);
    assert_json_means(expected, alloc, dirty, size);
}

static char *model_ddrescue(const FlMap *dirty)
{
    g_autofree char *hex = g_strdup_printf("%" G_GINT64_MODIFIER "X", fl_map_size(dirty));
    int digits = MAX(8, (int)strlen(hex));
    GString *out = g_string_new("# Mapfile. Created by fleecefs\n"
                                "# current_pos  current_status  current_pass\n");

    g_string_append_printf(out, "0x%0*X     ?               1\n#      pos        size  status\n",
                           digits, 0);
    for (size_t i = 0; i < fl_map_count(dirty); i++) {
        FlExtent e = fl_map_get(dirty, i);
        g_string_append_printf(
            out, "0x%0*" G_GINT64_MODIFIER "X  0x%0*" G_GINT64_MODIFIER "X  %c\n", digits, e.start,
            digits, e.end - e.start, e.type & FL_DIRTY ? '+' : '?');
    }
    return g_string_free(out, FALSE);
}

static void assert_ddrescue_view(FlMap *dirty, GRand *rand)
{
    g_autoptr(FlView) view = fl_view_ddrescue_new(dirty);
    g_autofree char *expected = model_ddrescue(dirty);

    assert_text_view(view, expected, rand);
}

static void assert_all_views(FlMap *alloc, FlMap *dirty, GRand *rand)
{
    uint64_t size = fl_map_size(alloc);

    assert_map_view(alloc, rand);
    assert_map_view(dirty, rand);
    assert_ddrescue_view(dirty, rand);
    assert_json_view(alloc, NULL, size, rand);
    assert_json_view(alloc, dirty, size, rand);
    assert_json_view(NULL, dirty, size, rand);
}

static void test_random(void)
{
    g_autoptr(GRand) rand = test_rand();
    /* Enough lines for several steps of the JSON index; sizes with few and many digits. */
    static const uint64_t sizes[] = {1, 511, 65536, 1000003, 0x100000001, INT64_MAX};

    for (unsigned i = 0; i < 60; i++) {
        uint64_t size = sizes[i % G_N_ELEMENTS(sizes)];
        uint64_t extents = 1 + random_below(rand, i % 2 == 0 ? 8 : 3000);
        uint64_t longest = 1 + size / extents;
        g_autoptr(FlMap) alloc = random_map(rand, size, 1, longest, 6);
        g_autoptr(FlMap) dirty = random_map(rand, size, 1, longest, i % 3 == 0 ? 3 : 2);

        assert_all_views(alloc, dirty, rand);
    }
}

static void test_uniform(void)
{
    g_autoptr(GRand) rand = test_rand();
    static const uint64_t sizes[] = {0, 1, 512, UINT32_MAX, INT64_MAX};

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        for (uint32_t type = 0; type < 2; type++) {
            g_autoptr(FlMap) alloc = fl_map_new_uniform(sizes[i], type * 3);
            g_autoptr(FlMap) dirty = fl_map_new_uniform(sizes[i], type);

            assert_all_views(alloc, dirty, rand);
        }
    }
}

/* Types as wide as the protocol allows. */
static void test_depth(void)
{
    g_autoptr(GRand) rand = test_rand();
    FlMapBuilder *builder = fl_map_builder_new();
    g_autoptr(FlMap) map = NULL;

    fl_map_builder_add(builder, 1, 0);
    fl_map_builder_add(builder, 1, 1);
    fl_map_builder_add(builder, 1, 5);
    fl_map_builder_add(builder, 1, UINT32_MAX);
    map = fl_map_builder_finish(builder);
    assert_map_view(map, rand);
}

/* The formats once literally, as a guard against a model that is wrong in the same way. */
static void test_literal(void)
{
    g_autoptr(GRand) rand = test_rand();
    FlMapBuilder *build_alloc = fl_map_builder_new(), *build_dirty = fl_map_builder_new();
    g_autoptr(FlMap) alloc = NULL, dirty = NULL;
    g_autoptr(FlView) map_view = NULL, whole = NULL, increment = NULL, ddrescue = NULL;

    fl_map_builder_add(build_alloc, 65536, 0);
    fl_map_builder_add(build_alloc, 65536, 3);
    alloc = fl_map_builder_finish(build_alloc);
    fl_map_builder_add(build_dirty, 98304, 0);
    fl_map_builder_add(build_dirty, 32768, 1);
    dirty = fl_map_builder_finish(build_dirty);

    map_view = fl_view_map_new(alloc, FL_CONTEXT_ALLOCATION);
    assert_text_view(map_view,
                     "                   0                 65536           0  data     \n"
                     "               65536                 65536           3  hole,zero\n",
                     rand);
    whole = fl_view_json_new(alloc, NULL, 131072);
    assert_text_view(whole,
                     "[\n{\"start\": 0, \"length\": 65536, \"zero\": false, \"hole\": false},\n"
                     "{\"start\": 65536, \"length\": 65536, \"zero\": true, \"hole\": true}\n]\n",
                     rand);
    increment = fl_view_json_new(alloc, dirty, 131072);
    assert_text_view(increment,
                     "[\n{\"start\": 0, \"length\": 65536, \"dirty\": false, \"zero\": false},\n"
                     "{\"start\": 65536, \"length\": 32768, \"dirty\": false, \"zero\": true},\n"
                     "{\"start\": 98304, \"length\": 32768, \"dirty\": true, \"zero\": true}\n]\n",
                     rand);
    ddrescue = fl_view_ddrescue_new(dirty);
    assert_text_view(ddrescue,
                     "# Mapfile. Created by fleecefs\n"
                     "# current_pos  current_status  current_pass\n"
                     "0x00000000     ?               1\n"
                     "#      pos        size  status\n"
                     "0x00000000  0x00018000  ?\n"
                     "0x00018000  0x00008000  +\n",
                     rand);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/text/bytes", test_bytes);
    g_test_add_func("/text/context-kind", test_context_kind);
    g_test_add_func("/text/random", test_random);
    g_test_add_func("/text/uniform", test_uniform);
    g_test_add_func("/text/depth", test_depth);
    g_test_add_func("/text/literal", test_literal);
    return g_test_run();
}
