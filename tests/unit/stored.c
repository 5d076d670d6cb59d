/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stored backups: times, maps, tables, and bases of images. */
#include "stored/stored.h"

#include "server-helper.h"
#include "stored/files.h"
#include "stored/when.h"

#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

static void test_when(Fixture *fixture, gconstpointer data)
{
    /* A Thursday; in New York, daylight saving time a month earlier. */
    static const struct {
        const char *when, *end;
    } cases[] = {
        {"now", "2026-11-26T04:30:15-05"},
        {"today", "2026-11-27T00:00:00-05"},
        {"Yesterday", "2026-11-26T00:00:00-05"},
        {"thursday", "2026-11-27T00:00:00-05"},
        {" tuesday ", "2026-11-25T00:00:00-05"},
        {"friday", "2026-11-21T00:00:00-05"},
        {"90 minutes ago", "2026-11-26T03:00:15-05"},
        {"1 hour ago", "2026-11-26T03:30:15-05"},
        {"2 days ago", "2026-11-25T00:00:00-05"},
        {"4 weeks ago", "2026-10-30T00:00:00-04"},
        {"2026-11-25", "2026-11-26T00:00:00-05"},
        {"2026-10-31", "2026-11-01T00:00:00-04"},
        {"2026-11-25 22:10", "2026-11-25T22:11:00-05"},
        {"2026-11-25t22:10:05", "2026-11-25T22:10:06-05"},
        {"2026-11-25T22:10:05.5Z", "2026-11-25T22:10:05.500000Z"},
        {"2026-11-25 22:10Z", "2026-11-25T22:11:00Z"},
        {"2026-11-25 22:10 +01:00", "2026-11-25T22:11:00+01"},
        {"2026-11-25 22:10+0530", "2026-11-25T22:11:00+05:30"},
        {"yesterday 22:10", "2026-11-25T22:11:00-05"},
        {"Tuesday 03:00:07", "2026-11-24T03:00:08-05"},
        {"today 22:10Z", "2026-11-26T22:11:00Z"},
        {"now 22:10", NULL},
        {"yesterday 25:10", NULL},
        {"yesterday ", "2026-11-26T00:00:00-05"},
        {"yesterday evening", NULL},
        {"2026-02-29", NULL},
        {"2026-13-01", NULL},
        {"2026-11-25 24:10", NULL},
        {"2026-11", NULL},
        {"20261125T221000Z", NULL},
        {"someday", NULL},
        {"", NULL},
        {"1 hour", NULL},
        {"-1 days ago", NULL},
        {"9999999 days ago", NULL},
    };
    g_autoptr(GTimeZone) zone = g_time_zone_new_identifier("America/New_York");
    g_autoptr(GDateTime) now = g_date_time_new(zone, 2026, 11, 26, 4, 30, 15);

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GDateTime) end = fl_when_end(cases[i].when, now);
        g_autofree char *text = end != NULL ? g_date_time_format_iso8601(end) : NULL;

        g_test_message("%s", cases[i].when);
        g_assert_cmpstr(text, ==, cases[i].end);
    }
}

static FlMap *parse(const char *text, uint64_t size)
{
    g_autoptr(GError) error = NULL;
    FlMap *map = fl_mapfile_parse(text, strlen(text), size, &error);

    g_assert_true((map == NULL) == (error != NULL));
    return map;
}

static void test_mapfile(Fixture *fixture, gconstpointer data)
{
    static const char *const odd[] = {
        "",
        "0x0 + 1\n",
        "0x0 + 1\n0x0 0x1000\n",
        "0x0 + 1\n0x0 0x2001 +\n",
        "0x0 + 1\n0x0 0x1fff +\n",
        "0x0 + 1\n0x0 -0x10 +\n0x0 0x2000 +\n",
        "0x0 + 1\n0x10 0x1ff0 +\n",
        "0x0 + 1\n0x0 0x2000 x\n",
        "0x0 + 1\n0x0 0x2000 +x\n",
        "0x0 + 1\n0x0 0x0 +\n0x0 0x2000 +\n",
        "0x0 + 1\n0x0 0xfffffffffffffffffffffff +\n",
    };
    g_autoptr(FlMap) map =
        parse("# Mapfile\n0x0 + 1\n#  pos size status\n0x0  0x200 ?\n512 0x400  + \r\n\n"
              "0x600 0x200 +\n0x800 0x1800 -",
              0x2000);

    g_assert_cmpuint(fl_map_count(map), ==, 3);
    g_assert_cmpuint(fl_map_get(map, 1).start, ==, 0x200);
    g_assert_cmpuint(fl_map_get(map, 1).end, ==, 0x800);
    g_assert_cmpuint(fl_map_get(map, 1).type, ==, FL_DIRTY);
    for (size_t i = 0; i < G_N_ELEMENTS(odd); i++)
        g_assert_null(parse(odd[i], 0x2000));
    g_assert_null(fl_mapfile_parse("0x0 + 1\n0x0 0x10 +\n\0", 20, 0x10, NULL));
}

/* Checks what QEMU reads from an increment of MAPFILE, whose bytes are 7, on a disk of 1s. */
static void assert_overlay(const char *mapfile, uint64_t size, const char *writes)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlMap) map = parse(mapfile, size);
    g_autofree char *make = g_strdup_printf(
        "rm -f overlay; truncate -s %" G_GUINT64_FORMAT " base new; : >overlay; "
        "qemu-io -f raw -c 'write -P 1 0 1M' base; qemu-io -f raw -c 'write -P 7 0 1M' new; "
        "cp base expected; %s",
        size, writes);
    int fd;

    run(make);
    fd = open("overlay", O_WRONLY | O_CLOEXEC);
    g_assert_true(fl_overlay_write(fd, map, &error));
    g_assert_no_error(error);
    close(fd);
    run("qemu-img compare 'json:{\"driver\": \"qcow2\", \"file\": {\"driver\": \"file\", "
        "\"filename\": \"overlay\"}, \"data-file\": {\"driver\": \"raw\", \"file\": {\"driver\": "
        "\"file\", \"filename\": \"new\"}}, \"backing\": {\"driver\": \"raw\", \"file\": "
        "{\"driver\": \"file\", \"filename\": \"base\"}}}' -F raw expected");
}

static void test_overlay(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlMap) map = NULL;

    assert_overlay("0x0 + 1\n0x0 0x100000 ?\n", MIB, ":");
    assert_overlay("0x0 + 1\n0x0 0x100000 +\n", MIB, "cp new expected");
    assert_overlay("0x0 + 1\n0x0 0x10000 ?\n0x10000 0x20000 +\n0x30000 0xd0000 ?\n", MIB,
                   "qemu-io -f raw -c 'write -P 7 64k 128k' expected");
    /* With clusters of a sector, an L2 table covers 32 KiB: ranges in several, across several,
     * none. */
    assert_overlay("0x0 + 1\n0x0 0x200 +\n0x200 0x7800 ?\n0x7a00 0x11000 +\n0x18a00 0x400 ?\n"
                   "0x18e00 0x200 +\n0x19000 0xe7000 ?\n",
                   MIB,
                   "qemu-io -f raw -c 'write -P 7 0 512' -c 'write -P 7 31232 69632' "
                   "-c 'write -P 7 101888 512' expected");
    /* The disk's end is not aligned to clusters. */
    assert_overlay("0x0 + 1\n0x0 0xf0000 ?\n0xf0000 0x10200 +\n", MIB + 512,
                   "qemu-io -f raw -c 'write -P 7 960k 64k' -c 'write -z 1M 512' expected");
    map = parse("0x0 + 1\n0x0 0x100 +\n0x100 0xfff00 ?\n", MIB);
    g_assert_false(fl_overlay_write(-1, map, &error));
    assert_error_has(error, "not whole sectors");
    /* A line of text may need tables that fill a file system. */
    for (int over = 0; over <= 1; over++) {
        uint64_t size = (UINT64_C(1) << 44) + (uint64_t)over;
        g_autofree char *text = g_strdup_printf("0x0 + 1\n0x0 0x%" PRIx64 " +\n", size);

        g_clear_error(&error);
        g_clear_pointer(&map, fl_map_unref);
        map = parse(text, size);
        g_assert_false(fl_overlay_write(-1, map, &error));
        assert_error_has(error, over ? "tables of more than 2 GiB" : "Bad file descriptor");
    }
}

static void assert_qcow2(const char *make, uint64_t size, bool based, const char *fault)
{
    g_autoptr(GError) error = NULL;
    int fd;
    bool ok;

    run(make);
    fd = fl_stored_open("a", &error);
    g_assert_no_error(error);
    ok = fl_stored_check_qcow2(fd, size, based, &error);
    close(fd);
    if (fault != NULL)
        assert_error_has(error, fault);
    else
        g_assert_no_error(error);
    g_assert_true(ok == (fault == NULL));
}

static void test_qcow2(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    const char *fill = "rm -f a; qemu-img create -q -f qcow2 a 1G; "
                       "qemu-io -c 'write 0 64k' -c 'write 600M 1M' a";

    assert_qcow2(fill, 1024 * MIB, false, NULL);
    assert_qcow2("rm -f a; qemu-img create -q -f qcow2 -o compat=0.10 a 1M; "
                 "qemu-io -c 'write -c 0 64k' -c 'write 64k 64k' a",
                 MIB, false, NULL);
    assert_qcow2("rm -f a; qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=16k a 1M; "
                 "qemu-io -c 'write 2k 2k' -c 'write -c 64k 16k' a",
                 MIB, false, NULL);
    assert_qcow2("rm -f a; qemu-img create -q -f qcow2 a 1000", 1000, false, NULL);
    assert_qcow2("rm -f a; qemu-img create -q -f qcow2 a 1G", MIB, false, "a disk of 1073741824");
    assert_qcow2("printf x >a; truncate -s 1M a", MIB, false, "not a qcow2");
    assert_qcow2(": >a", MIB, false, "truncated");
    run(fill);
    assert_qcow2("truncate -s -1 a", 1024 * MIB, false, "truncated");
    run(fill);
    assert_qcow2("truncate -s 300k a", 1024 * MIB, false, "truncated");
    assert_qcow2("rm -f a; : >b; qemu-img create -q -f qcow2 -b b -F raw a 1M", MIB, false,
                 "has a backing file");
    assert_qcow2(":", MIB, true, NULL);
    assert_qcow2("rm -f a; qemu-img create -q -f qcow2 -o data_file=c a 1M", MIB, true,
                 "external data file");
    /* Sets the encryption method in the header: creating LUKS takes long on a busy machine. */
    assert_qcow2("rm -f a; qemu-img create -q -f qcow2 a 1M; "
                 "printf '\\2' | dd of=a bs=1 seek=35 conv=notrunc status=none",
                 MIB, false, "encrypted");
    g_assert_cmpint(fl_stored_open("nosuch", &error), ==, -1);
    run("ln -s a link");
    g_clear_error(&error);
    g_assert_cmpint(fl_stored_open("link", &error), ==, -1);
    assert_error_has(error, "symbolic link");
    g_clear_error(&error);
    g_assert_cmpint(fl_stored_open("/dev/null", &error), ==, -1);
    assert_error_has(error, "not a regular file");
}

/* Stores a disk at HOME: full, or an increment on BASE; MORE is added to its info.json. */
static void store(const char *home, const char *point, const char *base, const char *more)
{
    g_autofree char *dirty = g_build_filename(home, "dirty", NULL);
    g_autofree char *info = g_build_filename(home, "info.json", NULL);
    g_autofree char *file =
        g_build_filename(home, base != NULL ? "dirty/last.qcow2" : "disk.qcow2", NULL);
    g_autofree char *context =
        base != NULL ? g_strdup_printf("\"base\": \"%s\", \"contexts\": [{\"bitmap\": \"last\", "
                                       "\"base\": \"%s\"}], ",
                                       base, base)
                     : g_strdup("");
    g_autofree char *text =
        g_strdup_printf("{\"size\": 1048576, %s\"restore_point\": \"%s\"%s}", context, point, more);

    g_assert_no_errno(g_mkdir_with_parents(base != NULL ? dirty : home, 0755));
    g_assert_true(g_file_set_contents(info, text, -1, NULL));
    g_assert_true(g_file_set_contents(file, "", 0, NULL));
}

/* Enough for what the tests make. */
#define BUDGET 1000000u

static void number(const char *generation, int n, const char *vm)
{
    g_autofree char *path = g_build_filename(generation, "vm.json", NULL);
    g_autofree char *text = g_strdup_printf(
        "{\"number\": %d, \"called\": \"%s\", \"vm\": {\"uuid\": \"%s-1\"}}", n, vm, vm);

    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static FlStored *read_all(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlBudget) budget = fl_budget_new(BUDGET);
    FlStored *stored = fl_stored_read(".", budget, &error);

    g_assert_no_error(error);
    return stored;
}

/* Returns the chosen disks, "GENERATION/DISK/FORM ...", or the beginning of the error. */
static char *choose(const FlStored *stored, const char *vm, const char *at)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GDateTime) now = g_date_time_new_utc(2026, 11, 26, 12, 0, 0);
    g_autoptr(GPtrArray) disks = fl_stored_choose(stored, vm, at, now, &error);
    g_autoptr(GString) text = g_string_new(NULL);

    if (disks == NULL)
        return g_strdup(error->message + strlen("backup:") + strlen(stored->top) + 2);
    for (guint i = 0; i < disks->len; i++) {
        const FlStoredImage *image = disks->pdata[i];
        g_string_append_printf(text, "%s%s/%s+%u", i > 0 ? " " : "", image->generation, image->disk,
                               image->depth);
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

static void assert_chosen(const FlStored *stored, const char *vm, const char *at,
                          const char *expected)
{
    g_autofree char *chosen = choose(stored, vm, at);

    if (!g_str_has_prefix(chosen, expected))
        g_error("%s, not %s", chosen, expected);
}

static void test_choose(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlStored) stored = NULL;
    g_autoptr(GPtrArray) all = NULL;
    const char *id = ", \"disk_id\": \"d\"";

    store("web/a/vda", "a", NULL,
          ", \"disk_id\": \"d\", \"point_in_time\": \"2026-11-20T06:00:00Z\"");
    store("web/a/vdb", "a", NULL,
          ", \"disk_id\": \"e\", \"point_in_time\": \"2026-11-20T06:00:00Z\"");
    /* The disk was renamed; the clock was wrong. */
    store("web/b/sda", "b", "a",
          ", \"disk_id\": \"d\", \"point_in_time\": \"2026-11-10T06:00:00Z\"");
    store("web/c/sda", "c", "b",
          ", \"disk_id\": \"d\", \"point_in_time\": \"2026-11-24T06:00:00Z\"");
    number("web/a", 0, "web");
    number("web/b", 1, "web");
    number("web/c", 2, "web");
    g_assert_no_errno(g_mkdir_with_parents("web/d.partial/vda", 0755));
    stored = read_all();
    assert_chosen(stored, NULL, NULL, "c/sda+2");
    assert_chosen(stored, "web", "a", "a/vda+0 a/vdb+0");
    assert_chosen(stored, "WEB-1", "wednesday", "c/sda+2");
    assert_chosen(stored, NULL, "monday", "b/sda+1");
    assert_chosen(stored, NULL, "2026-11-01", "no backup is that old; stored backups: c, b, a");
    assert_chosen(stored, NULL, "someday", "someday is neither a time");
    assert_chosen(stored, "db", NULL, "no VM db; stored VMs: web (web-1)");
    all = fl_stored_all(stored, NULL, NULL);
    g_assert_cmpuint(all->len, ==, 4);
    g_clear_pointer(&stored, fl_stored_free);

    /* The same disk twice, and a full backup beside an increment. */
    store("web/b/sda", "b", NULL, id);
    stored = read_all();
    assert_chosen(stored, NULL, "b", "b/sda+0");
    g_clear_pointer(&stored, fl_stored_free);
    store("web/e/sda", "b", NULL, id);
    number("web/e", 1, "web");
    stored = read_all();
    assert_chosen(stored, NULL, "c", "several files are restore point b of sda: ");
    run("rm -r web/e web/b");
    g_clear_pointer(&stored, fl_stored_free);

    /* A missing part is an error if requested, and is otherwise left out. */
    stored = read_all();
    assert_chosen(stored, NULL, NULL, stored->top);
    g_test_expect_message(G_LOG_DOMAIN, G_LOG_LEVEL_WARNING,
                          "*needs restore point b, which is missing*");
    g_clear_pointer(&all, g_ptr_array_unref);
    all = fl_stored_all(stored, NULL, NULL);
    g_test_assert_expected_messages();
    g_assert_cmpuint(all->len, ==, 2);
    g_clear_pointer(&stored, fl_stored_free);

    store("db/20261101T000000Z-1/vda", "x", NULL, "");
    store("db/20261102T000000Z-2/vda", "y", "y", "");
    stored = read_all();
    assert_chosen(stored, NULL, NULL,
                  "there are several VMs: web (web-1), db; choose one with ?vm=");
    assert_chosen(stored, "db", "202611", "202611 matches several generations: 20261102T000000Z-2");
    assert_chosen(stored, "db", "x", "20261101T000000Z-1/vda+0");
    {
        g_autofree char *said = choose(stored, "db", "y");
        g_assert_nonnull(strstr(said, "is based on itself"));
    }
    g_clear_pointer(&stored, fl_stored_free);
    run("printf '{' >web/a/vda/info.json");
    stored = read_all();
    g_assert_cmpuint(stored->damaged->len, ==, 1);
    {
        g_autofree char *said = choose(stored, "db", NULL);
        g_assert_nonnull(strstr(said, "info.json: "));
    }
    assert_chosen(stored, "db", "x", "20261101T000000Z-1/vda+0");
}

static void assert_nothing(const char *folder, const char *why)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlBudget) budget = fl_budget_new(BUDGET);

    g_assert_null(fl_stored_read(folder, budget, &error));
    assert_error_has(error, why);
    /* It is given back. */
    g_assert_true(fl_budget_take(budget, BUDGET, BUDGET));
}

/* What is remembered has one limit, however many files it comes from. */
static void test_too_much(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlBudget) budget = fl_budget_new(BUDGET);
    g_autoptr(GError) error = NULL;
    FlStored *stored;

    run("mkdir -p a/web/vda b; i=0; while [ $i -lt 100 ]; do"
        "    mkdir -p b/web$i/1/vda; : >b/web$i/1/vda/disk.raw;"
        "    printf '{\"size\": 512, \"restore_point\": \"%04000d\"}' $i >b/web$i/1/vda/info.json;"
        "    printf '{\"vm\": {\"uuid\": \"%04000d\"}}' $i >b/web$i/1/vm.json;"
        "    i=$((i + 1)); done");
    assert_nothing("b", "need too much memory; name the folder of one VM");
    stored = fl_stored_read("b/web1", budget, &error);
    g_assert_no_error(error);
    g_assert_false(fl_budget_take(budget, BUDGET, BUDGET));
    fl_stored_free(stored);
    g_assert_true(fl_budget_take(budget, BUDGET, BUDGET));
    run("printf '{\"size\": 512, \"disk_id\": \"%010000d\"}' 1 >a/web/vda/info.json");
    assert_nothing("a", "info.json: a text in it is too long");
    run("echo '{\"size\": 512}' >a/web/vda/info.json; : >a/web/vda/disk.raw;"
        "printf '{\"vm\": {\"name\": \"%010000d\"}}' 1 >a/web/vm.json");
    g_clear_pointer(&budget, fl_budget_unref);
    budget = fl_budget_new(BUDGET);
    stored = fl_stored_read("a", budget, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stored->damaged->len, ==, 1);
    g_assert_nonnull(strstr(stored->damaged->pdata[0], "vm.json: a text in it is too long"));
    fl_stored_free(stored);
}

/* Many VMs and disks, each of which depends on itself: no step may take them all. */
static void test_many(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlStored) stored = NULL;

    run("i=0; while [ $i -lt 300 ]; do"
        "    mkdir -p web$i/1/vda web$i/1/vdb/dirty;"
        "    : >web$i/1/vda/disk.raw; : >web$i/1/vdb/dirty/last.qcow2;"
        "    echo '{\"size\": 512}' >web$i/1/vda/info.json;"
        "    echo '{\"size\": 512, \"restore_point\": \"p\", \"base\": \"p\","
        "        \"contexts\": [{\"bitmap\": \"last\", \"base\": 1}]}' >web$i/1/vdb/info.json;"
        "    i=$((i + 1)); done; sed -i 's/\"base\": 1/\"base\": \"p\"/' web*/1/vdb/info.json");
    stored = read_all();
    g_assert_cmpuint(stored->images->len, ==, 600);
    g_assert_cmpuint(stored->vms->len, ==, 300);
    for (guint i = 0; i < stored->images->len; i++) {
        const FlStoredImage *image = stored->images->pdata[i];

        if (image->base != NULL)
            g_assert_nonnull(strstr(image->fault, "is based on itself"));
        else
            g_assert_null(image->fault);
    }
}

static void test_nothing(Fixture *fixture, gconstpointer data)
{
    assert_nothing("nosuch", "No such file");
    run(": >file; mkdir empty; mkdir -p links/a/vda; ln -s /etc/passwd links/a/vda/info.json");
    assert_nothing("file", "not a folder");
    assert_nothing("empty", "contains no backup");
    assert_nothing("links", "symbolic link");
    run("rm links/a/vda/info.json; mkfifo links/a/vda/info.json");
    assert_nothing("links", "not a regular file");
    run("rm links/a/vda/info.json; echo '{\"size\": 512}' >links/a/vda/info.json; "
        "ln -s /etc/passwd links/a/vda/disk.raw");
    assert_nothing("links", "not a regular file");
}

int main(int argc, char **argv)
{
    g_autofree char *runtime = g_dir_make_tmp("fleecefs-run-XXXXXX", NULL);
    int status;

    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
    g_test_init(&argc, &argv, NULL);
    g_test_add("/stored/when", Fixture, NULL, set_up, test_when, tear_down);
    g_test_add("/stored/mapfile", Fixture, NULL, set_up, test_mapfile, tear_down);
    g_test_add("/stored/overlay", Fixture, NULL, set_up, test_overlay, tear_down);
    g_test_add("/stored/qcow2", Fixture, NULL, set_up, test_qcow2, tear_down);
    g_test_add("/stored/choose", Fixture, NULL, set_up, test_choose, tear_down);
    g_test_add("/stored/too-much", Fixture, NULL, set_up, test_too_much, tear_down);
    g_test_add("/stored/many", Fixture, NULL, set_up, test_many, tear_down);
    g_test_add("/stored/nothing", Fixture, NULL, set_up, test_nothing, tear_down);
    status = g_test_run();
    g_rmdir(runtime);
    return status;
}
