/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plans from QEMU's answers: disks, bases, refusals, the transaction. */
#include "snapshot/point.h"
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"

#include <string.h>

/* A disk of 1 MiB as in query-block's reply. */
#define DISK(device, node, driver, more, bitmaps)                                                  \
    "{\"device\": \"" device "\", \"removable\": false, "                                          \
    "\"qdev\": \"/machine/peripheral/d/virtio-backend\", \"inserted\": {\"node-name\": \"" node    \
    "\", \"drv\": \"" driver "\", \"ro\": false, " more                                            \
    "\"image\": {\"virtual-size\": 1048576}, \"dirty-bitmaps\": [" bitmaps "]}}"
#define BITMAP(name, more)                                                                         \
    "{\"name\": \"" name "\", \"granularity\": 65536, \"busy\": false, " more "\"count\": 0}"

static GPtrArray *parse(const char *text)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = json_from_string(text, &error);

    g_assert_no_error(error);
    return fl_vm_parse_disks(node);
}

typedef struct {
    GPtrArray *disks, *notes;
    GError *error;
} Plan;

static void plan(Plan *p, const char *text, const FlSnapshotOptions *options, const char *lost_node)
{
    g_autoptr(GPtrArray) vm = parse(text);
    g_autoptr(GHashTable) lost = g_hash_table_new(g_str_hash, g_str_equal);

    if (lost_node != NULL)
        g_hash_table_insert(lost, (gpointer)lost_node, (gpointer) "20200101T000000Z-100000");
    *p = (Plan){.notes = g_ptr_array_new_with_free_func(g_free)};
    p->disks = fl_fleece_plan(vm, options, lost, p->notes, &p->error);
    g_assert_true((p->disks == NULL) == (p->error != NULL));
}

static void clear(Plan *p)
{
    g_clear_pointer(&p->disks, g_ptr_array_unref);
    g_clear_pointer(&p->notes, g_ptr_array_unref);
    g_clear_error(&p->error);
}

static const FlSnapshotDisk *only(const Plan *p)
{
    g_assert_no_error(p->error);
    g_assert_cmpuint(p->disks->len, ==, 1);
    return g_ptr_array_index(p->disks, 0);
}

static void assert_refused(const char *text, const FlSnapshotOptions *options, const char *words)
{
    Plan p;

    plan(&p, text, options, NULL);
    g_assert_nonnull(p.error);
    if (strstr(p.error->message, words) == NULL)
        g_error("'%s' is not in '%s'", words, p.error->message);
    clear(&p);
}

static void test_points(void)
{
    g_autofree char *id = fl_point_id(1795232219);
    g_autofree char *other = fl_point_id(1795232219);
    g_autofree char *name = fl_point_bitmap("a.b", id);
    g_autofree char *marker = fl_point_marker("a.b", id);
    g_autoptr(FlPoint) point = fl_point_parse(name);
    g_autoptr(FlPoint) pending = fl_point_parse(marker);
    static const char *const others[] = {
        "", "fleecefs", "fleecefs.", "fleecefs.a", "fleecefs.a.", "fleecefs..id", "Fleecefs.a.id"};

    g_assert_true(g_regex_match_simple("^20261121T033659Z-[0-9a-f]{16}$", id, 0, 0));
    g_assert_cmpstr(id, !=, other);
    g_assert_cmpstr(point->series, ==, "a.b");
    g_assert_cmpstr(point->id, ==, id);
    g_assert_true(point->unique);
    g_assert_cmpuint(point->size, ==, 0);
    g_assert_cmpint(point->seconds, ==, 1795232219);
    g_assert_cmpint(point->kind, ==, FL_POINT_BASE);
    g_assert_cmpint(pending->kind, ==, FL_POINT_PENDING);
    g_assert_cmpstr(pending->id, ==, id);
    for (size_t i = 0; i < G_N_ELEMENTS(others); i++)
        g_assert_null(fl_point_parse(others[i]));
}

/* Restore points of earlier versions. */
static void test_old_points(void)
{
    g_autoptr(FlPoint) point = fl_point_parse("fleecefs.a.b.20261121T033659Z-100000");
    g_autoptr(FlPoint) libvirt = fl_point_parse("fleecefs.last.20261121T033659Z");
    g_autoptr(FlPoint) huge = fl_point_parse("fleecefs.last.20261121T033659Z-fffffffffffffff");

    g_assert_cmpuint(point->size, ==, 1048576);
    g_assert_cmpint(point->seconds, ==, 1795232219);
    g_assert_false(point->unique);
    g_assert_cmpuint(libvirt->size, ==, 0);
    g_assert_cmpint(libvirt->seconds, ==, 1795232219);
    g_assert_false(libvirt->unique);
    g_assert_cmpuint(huge->size, ==, UINT64_C(0xfffffffffffffff));
}

static void test_disk_ids(void)
{
    g_autofree char *binding = fl_point_binding("vda", NULL, "/a");
    g_autofree char *same = fl_point_binding("vda", "", "/a");
    g_autofree char *shifted = fl_point_binding("vd", "a", "/a");
    g_autofree char *id = fl_point_disk_id("20261121T033659Z-0123456789abcdef", 1048576, binding);
    g_autofree char *plain = fl_point_disk_id("20261121T033659Z-0123456789abcdef", 512, NULL);
    g_autofree char *name = fl_point_disk("a.b", id);
    g_autofree char *plain_name = fl_point_disk("a.b", plain);
    g_autoptr(FlPoint) disk = fl_point_parse(name);
    g_autoptr(FlPoint) unbound = fl_point_parse(plain_name);
    g_autoptr(FlPoint) broken = fl_point_parse("fleecefs-disk.a.b");

    g_assert_cmpstr(binding, ==, same);
    g_assert_cmpstr(binding, !=, shifted);
    g_assert_cmpint(disk->kind, ==, FL_POINT_DISK);
    g_assert_cmpstr(disk->series, ==, "a.b");
    g_assert_cmpstr(disk->id, ==, id);
    g_assert_cmpstr(disk->first, ==, "20261121T033659Z-0123456789abcdef");
    g_assert_cmpuint(disk->size, ==, 1048576);
    g_assert_cmpstr(disk->binding, ==, binding);
    g_assert_cmpuint(unbound->size, ==, 512);
    g_assert_null(unbound->binding);
    g_assert_null(broken->first);
}

static void test_series(void)
{
    static const char *const bad[] = {"", ".a", "-a", "a/b", "a b", "\n", "\xc3\xa4"};
    g_autofree char *longest = g_strnfill(100, 'a');
    g_autofree char *longer = g_strnfill(101, 'a');

    g_assert_true(fl_series_check("last", NULL));
    g_assert_true(fl_series_check("a.b_c-9", NULL));
    g_assert_true(fl_series_check(longest, NULL));
    g_assert_false(fl_series_check(longer, NULL));
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_false(fl_series_check(bad[i], NULL));
}

static void test_names(void)
{
    g_autoptr(GPtrArray) disks = parse(
        "[" DISK("", "vda", "raw", "", "") "," DISK("drive0", "#block1", "raw", "", "") "," DISK(
            "", "#block2", "raw", "", "") ", {\"device\": \"empty\"}, 7]");

    g_assert_cmpuint(disks->len, ==, 3);
    g_assert_cmpstr(((FlVmDisk *)disks->pdata[0])->name, ==, "vda");
    g_assert_cmpstr(((FlVmDisk *)disks->pdata[1])->name, ==, "drive0");
    g_assert_cmpstr(((FlVmDisk *)disks->pdata[2])->name, ==, "d");
}

static void test_base(void)
{
    FlSnapshotOptions options = {.source = "qmp:x"};
    Plan p;

    /* The newest valid one of the series. */
    plan(
        &p,
        "[" DISK(
            "", "vda", "qcow2", "",
            BITMAP("fleecefs.last.20260101T000000Z-100000", "") "," BITMAP(
                "fleecefs.last.20260301T000000Z-100000",
                "") "," BITMAP("fleecefs.last.20260401T000000Z-100000",
                               "\"inconsistent\": true, ") "," BITMAP("fleecefs.lasts."
                                                                      "20260501T000000Z-100000",
                                                                      "") "," BITMAP("fleecefs-"
                                                                                     "pending.last."
                                                                                     "20260601T0000"
                                                                                     "00Z-100000",
                                                                                     "") "," BITMAP("fleecefs.last.20260201T000000Z-100000",
                                                                                                    "")) "]",
        &options, NULL);
    g_assert_cmpstr(only(&p)->base, ==, "20260301T000000Z-100000");
    g_assert_null(only(&p)->reason);
    g_assert_cmpuint(only(&p)->bitmaps->len, ==, 1);
    g_assert_cmpstr(((FlBitmap *)only(&p)->bitmaps->pdata[0])->context, ==,
                    "qemu:dirty-bitmap:last");
    clear(&p);
}

static void test_full(void)
{
    static const char with[] =
        "[" DISK("", "vda", "qcow2", "", BITMAP("fleecefs.last.20260101T000000Z-100000", "")) "]";
    static const char resized[] =
        "[" DISK("", "vda", "qcow2", "", BITMAP("fleecefs.last.20260101T000000Z-80000", "")) "]";
    static const char none[] = "[" DISK("", "vda", "qcow2", "", "") "]";
    static const char raw[] = "[" DISK("", "vda", "raw", "", "") "]";
    const struct {
        const char *text;
        FlSnapshotOptions options;
        const char *lost, *words;
    } cases[] = {
        {with, {.full = true}, NULL, "requested"},
        {with, {.series = "other"}, NULL, "no restore point of series 'other'"},
        {resized, {0}, NULL, "size changed"},
        {none, {0}, NULL, "no restore point of series 'last'"},
        {none, {0}, "vda", "QEMU did not exit cleanly"},
        {raw, {0}, NULL, "only in memory"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Plan p;
        plan(&p, cases[i].text, &cases[i].options, cases[i].lost);
        g_assert_null(only(&p)->base);
        g_assert_nonnull(strstr(only(&p)->reason, cases[i].words));
        g_assert_cmpuint(only(&p)->bitmaps->len, ==, 0);
        clear(&p);
    }
}

#define ID1                "20260101T000000Z-0123456789abcdef"
#define ID2                "20260201T000000Z-fedcba9876543210"
#define POINT              "fleecefs.last."
#define OWNER              "fleecefs-disk.last."
#define CHECK              "fleecefs-check.last."
#define COUNT(name, bytes) "{\"name\": \"" name "\", \"granularity\": 65536, \"count\": " bytes "}"
/* The bitmap that identifies the disk, with its last granule marked. */
#define WHOLE(id) "{\"name\": \"" OWNER id "\", \"granularity\": 512, \"count\": 512}"

static const FlSnapshotDisk *nth(const Plan *p, guint i)
{
    g_assert_no_error(p->error);
    return g_ptr_array_index(p->disks, i);
}

static void test_identity(void)
{
    static const char followed[] =
        "[" DISK("", "vda", "qcow2", "", BITMAP(POINT ID2, "") "," WHOLE(ID1 "-100000")) "," DISK(
            "", "vdb", "qcow2", "", "") "]";
    /* The one with fewer dirty bits is later, whatever their times are. */
    static const char order[] =
        "[" DISK("", "vda", "qcow2", "",
                 "{\"name\": \"" POINT ID2 "\", \"granularity\": 65536, \"count\": 655360},"
                 "{\"name\": \"" POINT ID1
                 "\", \"granularity\": 65536, \"count\": 65536}," WHOLE(ID1 "-100000")) "]";
    /* Bits were merged into it, or QEMU counted while the guest wrote. */
    static const char checked[] = "[" DISK(
        "", "vda", "qcow2", "",
        COUNT(POINT ID2, "131072") "," COUNT(CHECK ID2, "65536") "," WHOLE(ID1 "-100000")) "]";
    static const struct {
        const char *text, *words;
    } full[] = {
        {"[" DISK("", "vda", "qcow2", "", BITMAP(POINT ID2, "")) "]", "was removed"},
        {"[" DISK("", "vda", "qcow2", "",
                  BITMAP(POINT ID2, "") "," BITMAP(OWNER "nonsense", "")) "]",
         "was removed"},
        {"[" DISK("", "vda", "qcow2", "",
                  BITMAP(POINT ID2, "") "," BITMAP(OWNER ID1 "-100000",
                                                   "") "," BITMAP(OWNER ID2 "-100000", "")) "]",
         "was removed"},
        {"[" DISK("", "vda", "qcow2", "",
                  BITMAP(POINT ID2, "") "," BITMAP(OWNER ID1 "-80000", "")) "]",
         "size changed"},
        {"[" DISK("", "vda", "qcow2", "",
                  BITMAP(POINT ID2, "") "," BITMAP(OWNER ID1 "-100000", "")) "]",
         "shrunk since restore point " ID2 ", and grown again"},
        /* The check bitmap has more bits. */
        {"[" DISK(
             "", "vda", "qcow2", "",
             COUNT(POINT ID2, "65536") "," COUNT(CHECK ID2, "131072") "," WHOLE(ID1 "-100000")) "]",
         "restore point " ID2 " was cleared"},
        /* A bitmap in memory is bound to node, device and file. */
        {"[" DISK("", "vda", "raw", "",
                  BITMAP(POINT ID2, "") "," BITMAP(OWNER ID1 "-100000", "")) "]",
         "another device, node or file"},
        {"[" DISK("", "vda", "raw", "",
                  BITMAP(POINT ID2, "") "," BITMAP(OWNER ID1 "-100000-0123456789abcdef", "")) "]",
         "another device, node or file"},
        {"[" DISK("", "vda", "qcow2", "",
                  BITMAP(POINT ID2, "") "," BITMAP(OWNER ID1 "-100000",
                                                   "")) "," DISK("", "vdb", "qcow2", "",
                                                                 BITMAP(POINT ID2, "") "," BITMAP(
                                                                     OWNER ID1 "-100000", "")) "]",
         "one of them is a copy"},
        {"[" DISK("", "vda", "qcow2", "", BITMAP(POINT "20260101T000000Z-100000", "")) "," DISK(
             "", "vdb", "qcow2", "", BITMAP(POINT "20260101T000000Z-100000", "")) "]",
         "an earlier version"},
    };
    FlSnapshotOptions options = {.source = "qmp:x"};
    Plan p;

    plan(&p, followed, &options, NULL);
    g_assert_cmpstr(nth(&p, 0)->base, ==, ID2);
    g_assert_cmpstr(nth(&p, 0)->disk_id, ==, ID1 "-100000");
    g_assert_null(nth(&p, 1)->base);
    fl_fleece_name_point(p.disks->pdata[0], 0);
    fl_fleece_name_point(p.disks->pdata[1], 0);
    g_assert_cmpstr(nth(&p, 0)->disk_id, ==, ID1 "-100000");
    g_assert_true(g_str_has_prefix(nth(&p, 1)->disk_id, nth(&p, 1)->restore_point));
    g_assert_cmpstr(nth(&p, 0)->restore_point, !=, nth(&p, 1)->restore_point);
    clear(&p);

    plan(&p, order, &options, NULL);
    g_assert_cmpstr(nth(&p, 0)->base, ==, ID1);
    clear(&p);

    plan(&p, checked, &options, NULL);
    g_assert_cmpstr(nth(&p, 0)->base, ==, ID2);
    clear(&p);

    for (size_t i = 0; i < G_N_ELEMENTS(full); i++) {
        plan(&p, full[i].text, &options, NULL);
        for (guint k = 0; k < p.disks->len; k++) {
            g_assert_null(nth(&p, k)->base);
            g_assert_null(nth(&p, k)->disk_id);
            if (strstr(nth(&p, k)->reason, full[i].words) == NULL)
                g_error("'%s' is not in '%s'", full[i].words, nth(&p, k)->reason);
        }
        clear(&p);
    }
}

static void test_users_bitmaps(void)
{
    FlSnapshotOptions options = {.source = "qmp:x"};
    Plan p;

    plan(&p,
         "[" DISK(
             "", "vda", "qcow2", "",
             BITMAP("mine", "") "," BITMAP("last", "") "," BITMAP(
                 "broken",
                 "\"inconsistent\": true, ") "," BITMAP("fleecefs.other.20260101T000000Z-100000",
                                                        "")) "]",
         &options, NULL);
    g_assert_cmpuint(only(&p)->bitmaps->len, ==, 1);
    g_assert_cmpstr(((FlBitmap *)only(&p)->bitmaps->pdata[0])->name, ==, "mine");
    g_assert_cmpuint(p.notes->len, ==, 2);
    clear(&p);
}

static void test_refusals(void)
{
    static const char *const sda[] = {"sda", NULL}, *const vda[] = {"vda", NULL};
    FlSnapshotOptions plain = {0}, other = {.disks = sda}, this = {.disks = vda};

    assert_refused("[]", &plain, "no writable disk");
    assert_refused("{}", &plain, "no writable disk");
    assert_refused("[" DISK("", "vda", "raw", "", "") "]", &other, "the VM has: vda");
    assert_refused("[" DISK("", "vda", "mirror_top", "", "") "]", &plain, "block job");
    assert_refused("[{\"device\": \"vda\", \"inserted\": {\"node-name\": \"n\", \"ro\": true, "
                   "\"image\": {\"virtual-size\": 512}}}]",
                   &this, "no disk 'vda'");
    assert_refused("[" DISK("vda", "#a", "raw", "", "") "," DISK("", "vda", "raw", "", "") "]",
                   &plain, "two disks are called 'vda'");
    assert_refused("[" DISK("", "vda", "raw", "",
                            "{\"name\": \"fleecefs.last.20260101T000000Z-100000\", \"busy\": "
                            "true, \"granularity\": 65536}") "]",
                   &plain, "in use by another operation");
    assert_refused("[" DISK("", "vda", "qcow2", "\"active\": false, ", "") "]", &plain,
                   "disk vda is inactive in this QEMU");
}

static void test_transaction(void)
{
    FlSnapshotOptions options = {.source = "qmp:x"};
    g_autoptr(JsonNode) node = NULL;
    g_autofree char *text = NULL;
    Plan p;

    plan(&p,
         "[" DISK("", "vda", "qcow2", "", BITMAP("fleecefs.last.20260101T000000Z-100000", "")) "]",
         &options, NULL);
    ((FlSnapshotDisk *)p.disks->pdata[0])->restore_point = g_strdup("NEW");
    ((FlSnapshotDisk *)p.disks->pdata[0])->disk_id = g_strdup("DISK");
    ((FlFleeceDisk *)p.disks->pdata[0])->new_identity = true;
    node = fl_json_array_node(fl_fleece_snapshot_actions(p.disks, "last"));
    text = json_to_string(node, FALSE);
    g_assert_cmpstr(
        text, ==,
        "[{\"type\":\"block-dirty-bitmap-add\",\"data\":{\"node\":\"vda\",\"name\":"
        "\"fleecefs.last.NEW\",\"persistent\":true}},"
        "{\"type\":\"block-dirty-bitmap-add\",\"data\":{\"node\":\"vda\",\"name\":"
        "\"fleecefs-check.last.NEW\",\"persistent\":true}},"
        "{\"type\":\"block-dirty-bitmap-add\",\"data\":{\"node\":\"vda\",\"name\":"
        "\"fleecefs-pending.last.NEW\",\"persistent\":true,\"disabled\":true,\"granularity\":"
        "1073741824}},"
        "{\"type\":\"block-dirty-bitmap-add\",\"data\":{\"node\":\"vda\",\"name\":"
        "\"fleecefs-disk.last.DISK\",\"persistent\":true,\"disabled\":true,\"granularity\":"
        "512}},"
        "{\"type\":\"block-dirty-bitmap-merge\",\"data\":{\"node\":\"vda\",\"target\":"
        "\"fleecefs-disk.last.DISK\",\"bitmaps\":[{\"node\":\"fleecefs-0-tail\",\"name\":"
        "\"tail\"}]}},"
        "{\"type\":\"block-dirty-bitmap-add\",\"data\":{\"node\":\"fleecefs-0-overlay\",\"name\":"
        "\"last\",\"persistent\":false,\"disabled\":true,\"granularity\":65536}},"
        "{\"type\":\"block-dirty-bitmap-merge\",\"data\":{\"node\":\"fleecefs-0-overlay\","
        "\"target\":\"last\",\"bitmaps\":[{\"node\":\"vda\",\"name\":"
        "\"fleecefs.last.20260101T000000Z-100000\"}]}},"
        "{\"type\":\"blockdev-backup\",\"data\":{\"job-id\":\"fleecefs-0-job\",\"device\":\"vda\","
        "\"target\":\"fleecefs-0-overlay\",\"sync\":\"none\",\"auto-dismiss\":false,"
        "\"filter-node-name\":\"fleecefs-0-filter\"}}]");

    /* Truncation within a granule is undetected, so each increment includes the last granule. */
    g_clear_pointer(&text, g_free);
    g_clear_pointer(&node, json_node_unref);
    ((FlSnapshotDisk *)p.disks->pdata[0])->size = UINT64_C(1) << 40;
    node = fl_json_array_node(fl_fleece_snapshot_actions(p.disks, "last"));
    text = json_to_string(node, FALSE);
    g_assert_nonnull(strstr(text, "\"target\":\"last\",\"bitmaps\":[{\"node\":\"vda\",\"name\":"
                                  "\"fleecefs-disk.last.DISK\"},{\"node\":\"vda\",\"name\":"
                                  "\"fleecefs.last.20260101T000000Z-100000\"}]"));
    clear(&p);
}

/* One bit per sector while that takes little memory, and never more than QEMU's own bitmaps. */
static void test_tail(void)
{
    g_assert_cmpuint(fl_fleece_tail_granularity(512), ==, 512);
    g_assert_cmpuint(fl_fleece_tail_granularity(UINT64_C(8) << 30), ==, 512);
    g_assert_cmpuint(fl_fleece_tail_granularity((UINT64_C(8) << 30) + 512), ==, 1024);
    g_assert_cmpuint(fl_fleece_tail_granularity(UINT64_C(1) << 40), ==, 65536);
    g_assert_cmpuint(fl_fleece_tail_granularity(UINT64_C(1) << 62), ==, 65536);
}

/* If in doubt, the disks belong to another QEMU. */
static void test_owner(void)
{
    static const char *const away[] = {"postmigrate", "finish-migrate", "inmigrate",  "save-vm",
                                       "restore-vm",  "colo",           "unheard-of", NULL};
    static const char *const here[] = {
        "running",        "paused",   "prelaunch",      "suspended", "io-error", "watchdog",
        "guest-panicked", "shutdown", "internal-error", "debug",     NULL};
    static const char *const moving[] = {
        "setup",           "cancelling",       "active",     "postcopy-active",
        "postcopy-paused", "postcopy-recover", "colo",       "pre-switchover",
        "device",          "wait-unplug",      "unheard-of", NULL};
    static const char *const still[] = {"none", "completed", "failed", "cancelled", NULL, NULL};

    for (const char *const *state = away; *state != NULL; state++) {
        g_autofree char *why = fl_vm_disowned(*state, "completed", false);
        g_assert_nonnull(why);
    }
    for (const char *const *state = here; *state != NULL; state++)
        g_assert_null(fl_vm_disowned(*state, "completed", false));
    for (const char *const *status = moving; *status != NULL; status++) {
        g_autofree char *why = fl_vm_migrating(*status);
        g_assert_nonnull(strstr(why, *status));
    }
    for (size_t i = 0; i < G_N_ELEMENTS(still); i++)
        g_assert_null(fl_vm_migrating(still[i]));
    g_assert_null(fl_vm_disowned("running", "completed", true));
    g_assert_null(fl_vm_disowned("paused", "cancelled", true));
    g_assert_null(fl_vm_disowned("paused", NULL, true));
    for (const char *const *state = &here[1]; state < &here[3]; state++) {
        g_autofree char *why = fl_vm_disowned(*state, "completed", true);
        g_assert_nonnull(strstr(why, "resume it first"));
    }
    {
        g_autofree char *why = fl_vm_disowned(NULL, NULL, false);
        g_autofree char *failed = fl_vm_disowned("restore-vm", NULL, false);
        g_assert_nonnull(why);
        g_assert_nonnull(strstr(failed, "resume the VM (cont)"));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup/points", test_points);
    g_test_add_func("/backup/old-points", test_old_points);
    g_test_add_func("/backup/disk-ids", test_disk_ids);
    g_test_add_func("/backup/series", test_series);
    g_test_add_func("/backup/plan/names", test_names);
    g_test_add_func("/backup/plan/base", test_base);
    g_test_add_func("/backup/plan/full", test_full);
    g_test_add_func("/backup/plan/identity", test_identity);
    g_test_add_func("/backup/plan/users-bitmaps", test_users_bitmaps);
    g_test_add_func("/backup/plan/refusals", test_refusals);
    g_test_add_func("/backup/plan/transaction", test_transaction);
    g_test_add_func("/backup/plan/owner", test_owner);
    g_test_add_func("/backup/plan/tail", test_tail);
    return g_test_run();
}
