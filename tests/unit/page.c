/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The page that `fleecefs --status` prints for a status file. */
#include "app/status-page.h"
#include "qemu/json.h"

#include <glib.h>
#include <string.h>

#define HEAD                                                                                       \
    "'version': '1.2', 'pid': 7, 'since': '2026-11-21T03:36:59Z', 'memory_bytes': 1048576,"        \
    "'cache_bytes': 0, 'cache_limit': 67108864"
#define SNAPSHOT                                                                                   \
    "'name': 'vda', 'source': 'qmp:/run/vm', 'size': 1073741824, 'state': 'ok',"                   \
    "'point_in_time': '2026-11-21T03:36:59Z', 'mode': 'incremental', 'base': 'A',"                 \
    "'restore_point': 'B', 'connections': 2, 'requests': 5, 'errors': 0, 'bytes_read': 2048,"      \
    "'data_bytes': 1000000, 'data_covered_bytes': 1000, 'dirty_bytes': 4096, 'wanted_bytes': "     \
    "4096,"

/* The page of STATUS, written with ' instead of ". */
static char *page_of(const char *status, unsigned columns)
{
    FlStatusPageOptions options = {.mountpoint = "/mnt", .columns = columns, .wrap = true};
    g_autofree char *text = g_strdelimit(g_strdup(status), "'", '"');
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) object = fl_json_parse(text, strlen(text), &error);

    g_assert_no_error(error);
    return fl_status_page_make(object, &options);
}

static void assert_has(const char *page, const char *part)
{
    if (strstr(page, part) == NULL)
        g_error("no \"%s\" in:\n%s", part, page);
}

static void test_snapshot(void)
{
    g_autofree char *half =
        page_of("{" HEAD ", 'exports': [{" SNAPSHOT
                "'dirty_covered_bytes': 2048, 'covered_bytes': 2048, 'scratch_used': 95,"
                "'scratch_limit': 100, 'pieces_changed': 3, 'pieces_read': 1}]}",
                80);
    g_autofree char *all = page_of("{" HEAD ", 'exports': [{" SNAPSHOT
                                   "'dirty_covered_bytes': 4096, 'covered_bytes': 4096}]}",
                                   80);

    assert_has(half, "/mnt: fleecefs 1.2, process 7, since 2026-11-21 03:36:59 UTC\n");
    assert_has(half, "\nvda: 1.0 GiB, ok\n");
    assert_has(half, "since restore point A\n");
    assert_has(half, "restore point  B\n");
    assert_has(half, "]  50%  2.0 KiB of 4.0 KiB read\n");
    assert_has(half, "3 changed, 1 of them read\n");
    assert_has(half, "nearly full");
    assert_has(half, "2.0 KiB must still be read before --commit.");
    assert_has(all, "] 100%  4.0 KiB of 4.0 KiB read\n");
    assert_has(all, "fleecefs --commit /mnt");
    g_assert_null(strstr(all, "nearly full"));
}

/* Less than all never shows as 100%. */
static void test_almost_all(void)
{
    g_autofree char *page = page_of("{" HEAD ", 'exports': [{" SNAPSHOT
                                    "'dirty_covered_bytes': 4095, 'covered_bytes': 4095}]}",
                                    80);

    assert_has(page, "]  99%");
    g_assert_null(strstr(page, "100%"));
    assert_has(page, "1 byte");
    assert_has(page, "must still be read");
}

static void test_failed(void)
{
    g_autofree char *page = page_of("{" HEAD ", 'exports': [{'name': 'vda', 'state': 'failed',"
                                    "'failure': 'gone', 'restore_point': 'B', 'errors': 0}]}",
                                    80);
    g_autofree char *image = page_of("{" HEAD ", 'exports': [{'name': 'a', 'state': 'failed',"
                                     "'failure': 'gone', 'errors': 2}]}",
                                     80);

    assert_has(page, "FAILED\n");
    assert_has(page, "gone\n");
    assert_has(page, "back up again");
    g_assert_null(strstr(page, "connections"));
    assert_has(page, "all reads fail");
    /* There is nothing left to commit. */
    g_assert_null(strstr(page, "--commit"));
    assert_has(image, "its reads fail from now on");
    assert_has(image, "2 reads refused");
}

/* A file of another version, or without any known member. */
static void test_missing_members(void)
{
    static const char *const texts[] = {
        "{}",
        "{'exports': []}",
        "{'exports': 7}",
        "{'exports': [{}]}",
        "{'exports': [7, null, 'x', []]}",
        "{'pid': 'x', 'since': 3, 'exports': [{'name': 3, 'size': 'x', 'errors': []}]}",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autofree char *page = page_of(texts[i], 80);

        g_assert_true(g_str_has_prefix(page, "/mnt: fleecefs"));
    }
}

/* Output to a terminal is printable and fits its width, whatever names contain. */
static void test_foreign_text(void)
{
    for (unsigned columns = 20; columns <= 200; columns += 15) {
        g_autofree char *page =
            page_of("{" HEAD ", 'exports': [{'name': 'a\\u001b[31m\\u0000\\nb\\u4e2d\\u4e2d',"
                    "'state': 'failed', 'failure': 'one two three four five six seven eight nine "
                    "ten eleven twelve \\u0007'}]}",
                    columns);
        g_auto(GStrv) lines = g_strsplit(page, "\n", -1);

        g_assert_true(g_utf8_validate(page, -1, NULL));
        for (const char *p = page; *p != '\0'; p++)
            g_assert_true(*p == '\n' || !g_ascii_iscntrl(*p));
        if (columns >= 40) {
            for (guint i = 0; lines[i] != NULL; i++)
                g_assert_cmpint(g_utf8_strlen(lines[i], -1), <=, columns);
        }
    }
}

/* Many disks become a table with a line each; failed ones also get a paragraph. */
static void test_table(void)
{
    GString *text = g_string_new("{" HEAD ", 'exports': [");
    g_autofree char *page = NULL;
    g_auto(GStrv) lines = NULL;
    guint rows = 0;

    for (unsigned i = 0; i < 100; i++)
        g_string_append_printf(
            text, "%s{'name': 'disk%u', 'source': 's', 'size': 4096, %s}", i > 0 ? "," : "", i,
            i == 42 ? "'state': 'failed', 'failure': 'gone'"
                    : "'state': 'ok', 'data_bytes': 10, 'data_covered_bytes': 5");
    g_string_append(text, "]}");
    page = page_of(text->str, 100);
    lines = g_strsplit(page, "\n", -1);
    for (guint i = 0; lines[i] != NULL; i++)
        rows += g_str_has_prefix(lines[i], "disk") && strstr(lines[i], "4.0 KiB") != NULL &&
                strstr(lines[i], ":") == NULL;
    g_assert_cmpuint(rows, ==, 100);
    assert_has(page, "\ndisk42: 4.0 KiB, FAILED\n");
    g_assert_null(strstr(page, "\ndisk41:"));
    g_string_free(text, TRUE);
}

/* Colours add only escape sequences. */
static void test_colour(void)
{
    g_autofree char *page =
        page_of("{" HEAD ", 'exports': [{'name': 'vda', 'state': 'failed', 'failure': 'gone'},"
                "{" SNAPSHOT "'dirty_covered_bytes': 2048, 'covered_bytes': 2048}]}",
                80);
    g_autofree char *coloured = fl_status_page_colour(page);
    g_autoptr(GRegex) escapes = g_regex_new("\033\\[[0-9;]*m", 0, 0, NULL);
    g_autofree char *plain = g_regex_replace_literal(escapes, coloured, -1, 0, "", 0, NULL);

    g_assert_cmpstr(plain, ==, page);
    assert_has(coloured, "\033[1;31mFAILED\033[0m");
    assert_has(coloured, "\033[32mok\033[0m");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page/snapshot", test_snapshot);
    g_test_add_func("/page/almost-all", test_almost_all);
    g_test_add_func("/page/failed", test_failed);
    g_test_add_func("/page/missing-members", test_missing_members);
    g_test_add_func("/page/foreign-text", test_foreign_text);
    g_test_add_func("/page/table", test_table);
    g_test_add_func("/page/colour", test_colour);
    return g_test_run();
}
