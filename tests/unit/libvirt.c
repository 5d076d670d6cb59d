/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libvirt's XML, and plans made from it. */
#include "snapshot/libvirt/markup.h"
#include "snapshot/libvirt/session.h"

#include <stdlib.h>
#include <string.h>

static const char domain_xml[] =
    "<domain type='qemu' id='1'><name>a &amp; b</name><devices>"
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
    "<source file='/images/a &amp; b.qcow2' index='5'/><backingStore type='file'>"
    "<format type='raw'/><source file='/images/base'/></backingStore>"
    "<target dev='vda' bus='virtio'/></disk>"
    "<disk type='block'><driver type='raw' iothread='1' error_policy='report'/>"
    "<source dev='/dev/vg/b'/>"
    "<target dev='vdb' bus='virtio'/></disk>"
    "<disk type='network' device='disk'><driver type='qcow2'/><source protocol='rbd' name='x'/>"
    "<target dev='vdc' bus='scsi'/></disk>"
    "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>"
    "<disk type='file' device='disk'><driver type='raw'/><source file='/r'/>"
    "<target dev='sdb' bus='sata'/><readonly/></disk>"
    "<disk type='file' device='disk'/>"
    "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' "
    "state='connected'/></channel>"
    "</devices><seclabel type='dynamic' model='selinux'><label>u:r:svirt_t:s0:c1</label></seclabel>"
    "<seclabel type='dynamic' model='dac'><label>+64055:+107</label></seclabel></domain>";

static const FlDomainDisk *domain_disk(const FlDomain *domain, guint i)
{
    return g_ptr_array_index(domain->disks, i);
}

static const FlCheckpointDisk *checkpoint_disk(const FlCheckpoint *checkpoint, const char *target)
{
    return g_hash_table_lookup(checkpoint->disks, target);
}

static void test_domain(void)
{
    g_autoptr(FlDomain) domain = fl_domain_parse(domain_xml, NULL);

    g_assert_cmpuint(domain->disks->len, ==, 5);
    g_assert_true(domain->agent);
    g_assert_cmpint(domain->user, ==, 64055);
    g_assert_cmpint(domain->group, ==, 107);
    g_assert_cmpstr(domain_disk(domain, 0)->target, ==, "vda");
    g_assert_cmpstr(domain_disk(domain, 0)->format, ==, "qcow2");
    g_assert_cmpstr(domain_disk(domain, 0)->path, ==, "/images/a & b.qcow2");
    g_assert_false(domain_disk(domain, 0)->iothread);
    g_assert_cmpstr(domain_disk(domain, 1)->path, ==, "/dev/vg/b");
    g_assert_true(domain_disk(domain, 1)->iothread);
    g_assert_true(domain_disk(domain, 1)->reports && !domain_disk(domain, 0)->reports);
    g_assert_null(domain_disk(domain, 2)->path);
    g_assert_false(domain_disk(domain, 2)->empty);
    g_assert_cmpstr(domain_disk(domain, 3)->device, ==, "cdrom");
    g_assert_true(domain_disk(domain, 3)->empty);
    g_assert_true(domain_disk(domain, 4)->read_only);
}

static void test_bad_xml(void)
{
    static const char *const bad[] = {"", "<domain>", "<domain><a></domain>", "<domain a=&x;/>",
                                      "text"};

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(fl_domain_parse(bad[i], &error));
        g_assert_error(error, FL_ERROR, FL_ERROR_FAILED);
        g_assert_null(fl_checkpoint_parse(bad[i], NULL));
        g_assert_null(fl_domain_backup_parse(bad[i], NULL));
    }
    g_assert_null(fl_checkpoint_parse("<domaincheckpoint/>", NULL));
}

/* Any text survives a round trip. */
static void test_escapes(void)
{
    static const char evil[] = "/s'/><x a=\"&<]]>";
    const FlDomainPart parts[] = {
        {.target = "vda",
         .checkpoint = "c'\"<&",
         .export_name = "e'/><disk",
         .bitmap = "b&<'",
         .point = true,
         .size = 4096},
        {.target = "vdb"},
    };
    g_autofree char *socket = g_strconcat(evil, "/nbd", NULL);
    const FlDomainServer here = {.socket = socket};
    const FlDomainServer there = {.socket = socket, .address = evil, .port = 10809, .secret = evil};
    g_autofree char *xml = fl_domain_backup_xml(parts, 2, &here);
    g_autofree char *tcp = fl_domain_backup_xml(parts, 2, &there);
    g_autofree char *point = fl_checkpoint_xml(parts, 2, "fleecefs.last.1");
    g_autofree char *file = g_strconcat(evil, "/vda", NULL);
    g_autoptr(FlDomainBackup) backup = fl_domain_backup_parse(xml, NULL);
    g_autoptr(FlDomainBackup) other = fl_domain_backup_parse(tcp, NULL);
    g_autoptr(FlCheckpoint) checkpoint = fl_checkpoint_parse(point, NULL);
    const FlDomainExport *export;

    g_assert_cmpstr(backup->mode, ==, "pull");
    g_assert_cmpstr(backup->socket, ==, socket);
    g_assert_false(backup->tcp);
    g_assert_true(other->tcp);
    g_assert_cmpstr(other->socket, ==, socket);
    g_assert_cmpstr(other->file, ==, file);
    g_assert_cmpstr(backup->file, ==, file);
    g_assert_cmpuint(backup->disks->len, ==, 1);
    export = g_ptr_array_index(backup->disks, 0);
    g_assert_cmpstr(export->export_name, ==, parts[0].export_name);
    g_assert_cmpstr(export->bitmap, ==, parts[0].bitmap);

    g_assert_true(checkpoint->ours && checkpoint->pending);
    g_assert_cmpuint(g_hash_table_size(checkpoint->disks), ==, 1);
    g_assert_cmpuint(checkpoint_disk(checkpoint, "vda")->size, ==, 4096);
}

static FlCheckpoint *make_child(const char *name, const char *description, const char *parent)
{
    g_autofree char *xml = g_markup_printf_escaped(
        "<domaincheckpoint><name>%s</name><parent><name>%s</name></parent>"
        "<description>%s</description><disks>"
        "<disk name='vda' checkpoint='bitmap' bitmap='%s'/><disk name='vdb' checkpoint='no'/>"
        "</disks><domain type='kvm'><name>n</name><description>fleecefs pending</description>"
        "<devices><disk type='file'><source file='/images/a &amp; b.qcow2'/><target dev='vda'/>"
        "</disk></devices></domain></domaincheckpoint>",
        name, parent, description, name);

    return fl_checkpoint_parse(xml, NULL);
}

static FlCheckpoint *make_point(const char *name, const char *description)
{
    return make_child(name, description, "");
}

static void test_confirm(void)
{
    const FlDomainPart part = {.target = "vda",
                               .point = true,
                               .size = 512,
                               .disk_id = "D",
                               .keys = ",k1,k2",
                               .fingerprint = "5:ab,1f:cd"};
    g_autofree char *pending = fl_checkpoint_xml(&part, 1, "fleecefs.last.1");
    g_autofree char *confirmed = fl_checkpoint_confirm_xml(pending, &part, 1, NULL);
    g_autoptr(FlCheckpoint) checkpoint = fl_checkpoint_parse(confirmed, NULL);
    g_autoptr(FlCheckpoint) other = make_point("virtnbdbackup.0", "");
    g_autoptr(FlCheckpoint) alike = make_point("virtnbdbackup.1", "fleecefs pending");

    g_assert_true(checkpoint->ours && !checkpoint->pending);
    g_assert_cmpuint(checkpoint_disk(checkpoint, "vda")->size, ==, 512);
    g_assert_cmpstr(checkpoint_disk(checkpoint, "vda")->disk_id, ==, "D");
    g_assert_cmpstr(checkpoint_disk(checkpoint, "vda")->fingerprint, ==, "5:ab,1f:cd");
    g_assert_cmpuint(checkpoint_disk(checkpoint, "vda")->keys->len, ==, 2);
    g_assert_cmpuint(g_hash_table_size(checkpoint->disks), ==, 1);
    g_assert_null(fl_checkpoint_confirm_xml(confirmed, &part, 1, NULL));
    /* Checkpoints that are not ours by name and description are never touched. */
    g_assert_false(other->ours || other->pending || alike->ours || alike->pending);
}

/* Everything else in a checkpoint stays, except white space around the root element. */
static void test_replace(void)
{
    static const char xml[] =
        "<?xml version='1.0'?>\n<!-- of ours --><a>\n  <d>old &amp; gone</d><e x='1&#10;2&apos;'/>"
        "<b><d>stays</d><q:c y=\"&lt;\"><![CDATA[<&]]>\n&#13;</q:c></b></a>\n";
    g_autofree char *replaced = fl_markup_replace_text(xml, "a/d", "new <", NULL);
    g_autofree char *filled = fl_markup_replace_text("<a><d/></a>", "a/d", "x", NULL);
    g_autoptr(GError) error = NULL;

    g_assert_cmpstr(replaced, ==,
                    "<?xml version='1.0'?><!-- of ours --><a>\n  <d>new &lt;</d>"
                    "<e x='1&#10;2&apos;'></e>"
                    "<b><d>stays</d><q:c y='&lt;'>&lt;&amp;\n&#13;</q:c></b></a>");
    g_assert_cmpstr(filled, ==, "<a><d>x</d></a>");
    g_assert_null(fl_markup_replace_text("<a><d></a>", "a/d", "x", &error));
    g_assert_error(error, FL_ERROR, FL_ERROR_FAILED);
}

typedef struct {
    FlDomain *domain;
    GPtrArray *checkpoints, *notes;
    FlSnapshotOptions options;
} Plan;

static void plan_init(Plan *plan)
{
    plan->domain = fl_domain_parse(domain_xml, NULL);
    for (guint i = 0; i < plan->domain->disks->len; i++) {
        FlDomainDisk *disk = (FlDomainDisk *)domain_disk(plan->domain, i);
        disk->size = 4096;
        fl_libvirt_find_keys(NULL, disk);
    }
    plan->checkpoints = g_ptr_array_new_with_free_func((GDestroyNotify)fl_checkpoint_free);
    plan->notes = g_ptr_array_new_with_free_func(g_free);
    plan->options = (FlSnapshotOptions){.source = "libvirt:x"};
}

static void plan_clear(Plan *plan)
{
    fl_domain_free(plan->domain);
    g_ptr_array_unref(plan->checkpoints);
    g_ptr_array_unref(plan->notes);
}

static GPtrArray *make_plan(Plan *plan, bool running, GError **error)
{
    return fl_libvirt_plan(plan->domain, plan->checkpoints, running, false, &plan->options,
                           plan->notes, error);
}

static void check_disk(const GPtrArray *plan, guint i, const char *name, const char *checkpoint,
                       const char *reason)
{
    const FlLibvirtDisk *disk = g_ptr_array_index(plan, i);

    g_assert_cmpstr(disk->disk.name, ==, name);
    g_assert_cmpstr(disk->checkpoint, ==, checkpoint);
    g_assert_true((reason == NULL) == (disk->disk.reason == NULL));
    if (reason != NULL)
        g_assert_nonnull(strstr(disk->disk.reason, reason));
    g_assert_cmpuint(disk->disk.bitmaps->len, ==, checkpoint != NULL);
}

static void test_plan(void)
{
    Plan plan;
    g_autoptr(GPtrArray) first = NULL;
    g_autoptr(GPtrArray) second = NULL;
    g_autoptr(GPtrArray) off = NULL;

    plan_init(&plan);
    first = make_plan(&plan, true, NULL);
    g_assert_cmpuint(first->len, ==, 3);
    check_disk(first, 0, "vda", NULL, "no restore point of series 'last'");
    check_disk(first, 1, "vdb", NULL, "format raw");
    g_assert_cmpstr(g_ptr_array_index(plan.notes, 0), ==, "left out: sda (cdrom), sdb (read-only)");

    /* A pending checkpoint, or one of another series or tool, is not a base. */
    g_ptr_array_add(plan.checkpoints, make_point("fleecefs.last.1", "fleecefs committed vda=4096"));
    g_ptr_array_add(plan.checkpoints, make_child("fleecefs.last.0", "fleecefs committed vda=4096",
                                                 "fleecefs.last.1"));
    g_ptr_array_add(plan.checkpoints,
                    make_child("fleecefs.last.3", "fleecefs pending vda=4096", "fleecefs.last.0"));
    g_ptr_array_add(plan.checkpoints, make_point("fleecefs.week.4", "fleecefs committed vda=4096"));
    g_ptr_array_add(plan.checkpoints, make_point("other", "fleecefs committed vda=4096"));
    second = make_plan(&plan, true, NULL);
    check_disk(second, 0, "vda", "fleecefs.last.0", NULL);
    check_disk(second, 2, "vdc", NULL, "not in checkpoint");

    off = make_plan(&plan, false, NULL);
    g_assert_cmpuint(off->len, ==, 2);
    check_disk(off, 0, "vda", "fleecefs.last.0", NULL);
    g_assert_cmpstr(((FlLibvirtDisk *)g_ptr_array_index(off, 0))->disk.image, ==,
                    "/images/a & b.qcow2");
    plan_clear(&plan);
}

static char *missing_from(const Plan *plan, bool running)
{
    g_autoptr(GPtrArray) missing = g_ptr_array_new_with_free_func(g_free);

    fl_libvirt_add_missing(plan->domain, running, &plan->options, missing);
    g_ptr_array_add(missing, NULL);
    return g_strjoinv(" ", (char **)missing->pdata);
}

static void test_missing(void)
{
    const struct {
        bool running, read_only;
        const char *const *disks;
        const char *missing;
    } cases[] = {
        {true, false, NULL, ""},
        {false, false, NULL, "vdc"},
        {false, false, (const char *const[]){"vda", NULL}, ""},
        {true, true, NULL, ""},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *missing = NULL;
        Plan plan;

        plan_init(&plan);
        plan.options.read_only = cases[i].read_only;
        plan.options.disks = cases[i].disks;
        missing = missing_from(&plan, cases[i].running);
        g_assert_cmpstr(missing, ==, cases[i].missing);
        plan_clear(&plan);
    }
}

/* An image is recognised under any name and target. */
static void test_recognize(void)
{
    g_autoptr(FlCheckpoint) two =
        make_point("fleecefs.last.1", "fleecefs committed vda=4096,A,a,template "
                                      "vdb=4096,B,b,template vdc=4096,C,c");
    static const struct {
        const char *keys, *expected;
    } cases[] = {
        {"a", "A"},         {"b template", "B"},  {"overlay a template", "A"},
        {"template", NULL}, {"x template", NULL}, {"a b", NULL},
        {"", NULL},         {"c path:/a", "C"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(GStrv) keys = g_strsplit(cases[i].keys, " ", -1);
        FlDomainDisk disk = {.keys = g_ptr_array_new()};
        const FlCheckpointDisk *found;

        for (char **key = keys; *key != NULL; key++)
            g_ptr_array_add(disk.keys, *key);
        found = fl_libvirt_recognize(two, &disk);
        g_assert_cmpstr(found != NULL ? found->disk_id : NULL, ==, cases[i].expected);
        g_ptr_array_unref(disk.keys);
    }
}

/* A renamed file has the same key, a copy has another; backing files are part of the key. */
static void test_keys(void)
{
    g_autofree char *folder = g_dir_make_tmp("fleecefs-XXXXXX", NULL);
    g_autofree char *script = g_strdup_printf(
        "cd %s && qemu-img create -q -f qcow2 base 1M && "
        "qemu-img create -q -f qcow2 -b base -F qcow2 top && cp top copy && ln top moved",
        folder);
    static const char *const names[] = {"top", "moved", "copy", "base", "absent"};
    char *text[G_N_ELEMENTS(names)] = {NULL};
    g_autofree char *clean = g_strdup_printf("rm -r %s", folder);

    g_assert_cmpint(system(script), ==, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(folder, names[i], NULL);
        FlDomainDisk disk = {.path = path,
                             .format = (char *)"qcow2",
                             .keys = g_ptr_array_new_with_free_func(g_free)};

        fl_libvirt_find_keys(NULL, &disk);
        text[i] = fl_libvirt_join_keys(&disk);
        g_ptr_array_unref(disk.keys);
    }
    g_assert_cmpstr(text[0], ==, text[1]);
    g_assert_cmpstr(text[0], !=, text[2]);
    g_assert_true(g_str_has_suffix(text[0], text[3]));
    g_assert_true(g_str_has_suffix(text[2], text[3]));
    g_assert_cmpuint(strlen(text[0]), ==, 2 * strlen(text[3]));
    g_assert_cmpuint(strlen(text[4]), ==, strlen(text[3]));
    g_assert_cmpint(system(clean), ==, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
        g_free(text[i]);
}

static void test_plan_options(void)
{
    static const char *const none[] = {"sda", NULL};
    Plan plan;
    g_autoptr(GPtrArray) since = NULL;
    g_autoptr(GPtrArray) values =
        g_ptr_array_new_with_free_func((GDestroyNotify)fl_source_value_free);
    g_autoptr(GPtrArray) resized = NULL;
    g_autoptr(GError) error = NULL;

    plan_init(&plan);
    g_ptr_array_add(plan.checkpoints, make_point("other", ""));
    g_ptr_array_add(plan.checkpoints, make_point("fleecefs.last.1", "fleecefs committed vda=512"));
    resized = make_plan(&plan, true, NULL);
    check_disk(resized, 0, "vda", NULL, "size changed");
    plan.options.values = values;
    fl_source_option_give(values, fl_providers_option("since"), "other", NULL);
    since = make_plan(&plan, true, NULL);
    check_disk(since, 0, "vda", "other", NULL);
    fl_source_option_give(values, fl_providers_option("since"), "missing", NULL);
    g_assert_null(make_plan(&plan, true, &error));
    g_assert_nonnull(strstr(error->message, "the VM has: other, fleecefs.last.1"));
    g_clear_error(&error);

    plan.options.values = NULL;
    plan.options.disks = none;
    g_assert_null(make_plan(&plan, true, &error));
    g_assert_nonnull(strstr(error->message, "it is cdrom"));
    g_clear_error(&error);

    /* vdb runs in an iothread. */
    plan.options.disks = NULL;
    g_assert_null(fl_libvirt_plan(plan.domain, plan.checkpoints, true, true, &plan.options,
                                  plan.notes, &error));
    g_assert_nonnull(strstr(error->message, "disk vdb runs in an iothread"));
    plan_clear(&plan);
}

static void test_owner(void)
{
    static const struct {
        int state, reason;
    } away[] =
        {
            {VIR_DOMAIN_SHUTOFF, VIR_DOMAIN_SHUTOFF_MIGRATED},
            {VIR_DOMAIN_RUNNING, VIR_DOMAIN_RUNNING_POSTCOPY},
            {VIR_DOMAIN_RUNNING, VIR_DOMAIN_RUNNING_POSTCOPY_FAILED},
            {VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_MIGRATION},
            {VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_POSTCOPY},
            {VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_POSTCOPY_FAILED},
            {VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_SAVE},
            {VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_STARTING_UP},
        },
      here[] = {
          {VIR_DOMAIN_SHUTOFF, VIR_DOMAIN_SHUTOFF_SHUTDOWN},
          {VIR_DOMAIN_SHUTOFF, VIR_DOMAIN_SHUTOFF_SAVED},
          {VIR_DOMAIN_RUNNING, VIR_DOMAIN_RUNNING_MIGRATED},
          {VIR_DOMAIN_RUNNING, VIR_DOMAIN_RUNNING_BOOTED},
          {VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_USER},
          {VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_IOERROR},
          {VIR_DOMAIN_PMSUSPENDED, 0},
      };

    for (size_t i = 0; i < G_N_ELEMENTS(away); i++)
        g_assert_nonnull(fl_libvirt_disowned(away[i].state, away[i].reason));
    for (size_t i = 0; i < G_N_ELEMENTS(here); i++)
        g_assert_null(fl_libvirt_disowned(here[i].state, here[i].reason));
}

static void test_sockets(void)
{
    static const char *const ours[] = {"/s/fleecefs-0123456789abcdef/nbd",
                                       "/s/fleecefs-0123456789abcdef-nbd"};
    /* Whose files begin like those of all sessions, or are of others. */
    static const char *const others[] = {
        "/s/fleecefs-nbd",
        "/s/fleecefs--nbd",
        "/s/fleecefs-0123456789abcdef0/nbd",
        "/s/fleecefs-0123456789abcde-nbd",
        "/s/fleecefs-0123456789ABCDEF/nbd",
        "/s/fleecefs-0123456789abcdef/x",
        "/s/fleecefs-x/nbd",
        "/nbd",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(ours); i++)
        g_assert_true(fl_libvirt_is_our_socket(ours[i]));
    for (size_t i = 0; i < G_N_ELEMENTS(others); i++)
        g_assert_false(fl_libvirt_is_our_socket(others[i]));
    g_assert_false(fl_libvirt_is_our_socket(NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/libvirt/domain", test_domain);
    g_test_add_func("/libvirt/bad-xml", test_bad_xml);
    g_test_add_func("/libvirt/escapes", test_escapes);
    g_test_add_func("/libvirt/confirm", test_confirm);
    g_test_add_func("/libvirt/replace", test_replace);
    g_test_add_func("/libvirt/plan", test_plan);
    g_test_add_func("/libvirt/missing", test_missing);
    g_test_add_func("/libvirt/recognize", test_recognize);
    g_test_add_func("/libvirt/keys", test_keys);
    g_test_add_func("/libvirt/plan-options", test_plan_options);
    g_test_add_func("/libvirt/owner", test_owner);
    g_test_add_func("/libvirt/sockets", test_sockets);
    return g_test_run();
}
