/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Accepts JSON by RFC 8259, without the extensions of json-glib. */
#include "qemu/json.h"

#include "qemu/json-syntax.h"

#include <string.h>

static const char *const objects[] = {
    "{}",
    " \t\r\n{ } \n",
    "{\"a\": 1}",
    "{\"a\": -0.5e+10, \"b\": 0, \"c\": 1E3, \"d\": 99999999999999999999}",
    "{\"a\": [], \"b\": [1, [2, {}], \"x\"], \"c\": {\"d\": null}, \"e\": true, \"f\": false}",
    "{\"a\": \"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00 \xc3\xa9 [{\"}",
    "{\"\": \"\"}",
    "{\"a\": 1, \"a\": 2}",
};

static const char *const broken[] = {
    "",
    " ",
    "{",
    "}",
    "{} {}",
    "{}{}",
    "{}\n{}\n",
    "{},{}",
    "{/*\"*/} {} /*\"*/}",
    "{} // x",
    "{'a': 1}",
    "{\"a\": '}{'}",
    "{a: 1}",
    "{\"a\": 1,}",
    "{,}",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\": 1 \"b\": 2}",
    "{\"a\": 1]",
    "{\"a\": [1, ]}",
    "{\"a\": [1 2]}",
    "{\"a\": [}]}",
    "{\"a\": 01}",
    "{\"a\": 0x10}",
    "{\"a\": .5}",
    "{\"a\": 1.}",
    "{\"a\": 1e}",
    "{\"a\": -}",
    "{\"a\": +1}",
    "{\"a\": NaN}",
    "{\"a\": tru}",
    "{\"a\": truely}",
    "{\"a\": \"\\x\"}",
    "{\"a\": \"\\u12g4\"}",
    "{\"a\": \"\\ud800\"}",
    "{\"a\": \"\\udc00\"}",
    "{\"a\": \"\\ud800\\u0041\"}",
    "{\"a\": \"\n\"}",
    "{\"a\": \"",
    "{\"a\": \"\\",
    "{\"a\": \"\\u12",
    "var x = {};",
};

static void test_objects(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(objects); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(JsonObject) object = fl_json_parse(objects[i], strlen(objects[i]), &error);

        g_test_message("%s", objects[i]);
        g_assert_no_error(error);
        g_assert_nonnull(object);
        /* No proper prefix is valid. */
        for (size_t n = 0; n < strlen(objects[i]) - 1 && *objects[i] == '{'; n++)
            g_assert_false(fl_json_is_valid(objects[i], n, FL_JSON_MAX_DEPTH));
    }
}

static void test_broken(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(broken); i++) {
        g_autoptr(GError) error = NULL;

        g_test_message("%s", broken[i]);
        g_assert_null(fl_json_parse(broken[i], strlen(broken[i]), &error));
        g_assert_cmpstr(error->message, ==, "broken JSON");
    }
    /* A NUL byte does not end the text. */
    g_assert_null(fl_json_parse("{}\0{}", 5, NULL));
    g_assert_null(fl_json_parse("{\"a\": \"\0\"}", 10, NULL));
}

static void test_not_objects(void)
{
    static const char *const texts[] = {"[1]", "\"x\"", "1", "null"};

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(fl_json_parse(texts[i], strlen(texts[i]), &error));
        g_assert_cmpstr(error->message, ==, "JSON that is not an object");
    }
}

static void test_depth(void)
{
    for (unsigned depth = FL_JSON_MAX_DEPTH - 1; depth <= FL_JSON_MAX_DEPTH; depth++) {
        g_autofree char *open = g_strnfill(depth, '['), *close = g_strnfill(depth, ']');
        g_autofree char *text = g_strdup_printf("{\"a\": %s%s}", open, close);
        g_autoptr(JsonObject) object = fl_json_parse(text, strlen(text), NULL);

        g_assert_true((object != NULL) == (depth < FL_JSON_MAX_DEPTH));
        g_assert_true(fl_json_is_valid(text, strlen(text), FL_JSON_MAX_DEPTH) ==
                      (depth < FL_JSON_MAX_DEPTH));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json/objects", test_objects);
    g_test_add_func("/json/broken", test_broken);
    g_test_add_func("/json/not-objects", test_not_objects);
    g_test_add_func("/json/depth", test_depth);
    return g_test_run();
}
