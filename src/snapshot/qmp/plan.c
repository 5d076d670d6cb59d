/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plans what to do with each disk, as a function of what QEMU reports about it. */
#include "snapshot/point.h"
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"

#include <string.h>
#include <unistd.h>

/* Only a marker's existence matters, and a coarser bitmap is smaller. */
#define MARKER_GRANULARITY (G_GINT64_CONSTANT(1) << 30)

static void free_copy(gpointer data)
{
    FlFleeceCopy *copy = data;

    g_free(copy->source);
    g_free(copy->name);
    g_free(copy);
}

static void free_disk(gpointer data)
{
    FlFleeceDisk *disk = data;

    fl_snapshot_disk_clear(&disk->disk);
    if (disk->scratch >= 0)
        close(disk->scratch);
    g_free(disk->node);
    g_free(disk->qdev);
    g_free(disk->binding);
    g_ptr_array_unref(disk->copies);
    g_free(disk);
}

static void add_copy(FlFleeceDisk *disk, const FlVmBitmap *bitmap, const char *name)
{
    FlFleeceCopy *copy = g_new(FlFleeceCopy, 1);

    copy->source = g_strdup(bitmap->name);
    copy->name = g_strdup(name);
    copy->granularity = bitmap->granularity;
    g_ptr_array_add(disk->copies, copy);
    g_ptr_array_add(disk->disk.bitmaps, fl_bitmap_new(name, NULL, bitmap->granularity));
}

/*
 * Returns the last restore point of SERIES, or NULL. There is at most one, unless somebody copied
 * bitmaps. All of them include what changed since the last, so the last has the fewest dirty bits.
 * Timestamps prove nothing.
 */
static const FlVmBitmap *last_point(const FlVmDisk *vm, const char *series, FlPoint **point)
{
    const FlVmBitmap *last = NULL;

    for (guint i = 0; i < vm->bitmaps->len; i++) {
        const FlVmBitmap *bitmap = g_ptr_array_index(vm->bitmaps, i);
        g_autoptr(FlPoint) p = fl_point_parse(bitmap->name);

        if (p == NULL || p->kind != FL_POINT_BASE || bitmap->inconsistent ||
            !g_str_equal(p->series, series))
            continue;
        if (last == NULL || bitmap->dirty < last->dirty ||
            (bitmap->dirty == last->dirty && strcmp(p->id, (*point)->id) > 0)) {
            last = bitmap;
            fl_point_free(*point);
            *point = g_steal_pointer(&p);
        }
    }
    return last;
}

/* Returns the identity of the disk that the points of SERIES belong to; NULL unless there is
 * exactly one. */
static FlPoint *find_identity(const FlVmDisk *vm, const char *series)
{
    g_autoptr(FlPoint) found = NULL;

    for (guint i = 0; i < vm->bitmaps->len; i++) {
        const FlVmBitmap *bitmap = g_ptr_array_index(vm->bitmaps, i);
        g_autoptr(FlPoint) p = fl_point_parse(bitmap->name);

        if (p == NULL || p->kind != FL_POINT_DISK || !g_str_equal(p->series, series))
            continue;
        if (found != NULL || p->first == NULL)
            return NULL;
        found = g_steal_pointer(&p);
    }
    return g_steal_pointer(&found);
}

/* Returns another of DISKS that has BITMAP, or NULL. */
static const FlVmDisk *find_twin(const GPtrArray *disks, const FlVmDisk *vm, const char *bitmap)
{
    for (guint i = 0; i < disks->len; i++) {
        const FlVmDisk *other = g_ptr_array_index(disks, i);

        for (guint k = 0; k < other->bitmaps->len && !g_str_equal(other->node, vm->node); k++) {
            const FlVmBitmap *its = g_ptr_array_index(other->bitmaps, k);
            if (g_str_equal(its->name, bitmap))
                return other;
        }
    }
    return NULL;
}

/* Whether the identity bitmap is missing or has lost its last bit. */
static bool was_cut(const FlVmDisk *vm, const FlPoint *identity)
{
    g_autofree char *name = fl_point_disk(identity->series, identity->id);

    for (guint i = 0; i < vm->bitmaps->len; i++) {
        const FlVmBitmap *bitmap = g_ptr_array_index(vm->bitmaps, i);
        if (g_str_equal(bitmap->name, name))
            return bitmap->dirty == 0;
    }
    return true;
}

/* Whether BITMAP, which is POINT, has fewer dirty bits than the check bitmap recorded beside it. */
static bool was_cleared(const FlVmDisk *vm, const FlVmBitmap *bitmap, const FlPoint *point)
{
    g_autofree char *name = fl_point_check(point->series, point->id);

    for (guint i = 0; i < vm->bitmaps->len; i++) {
        const FlVmBitmap *check = g_ptr_array_index(vm->bitmaps, i);
        if (g_str_equal(check->name, name))
            return !check->inconsistent && check->dirty > bitmap->dirty;
    }
    return false;
}

bool fl_fleece_seems_cleared(const GPtrArray *disks, const char *series)
{
    for (guint i = 0; i < disks->len; i++) {
        const FlVmDisk *vm = g_ptr_array_index(disks, i);
        g_autoptr(FlPoint) point = NULL;
        const FlVmBitmap *base = last_point(vm, series, &point);

        if (base != NULL && was_cleared(vm, base, point))
            return true;
    }
    return false;
}

/* Checks that POINT, the bitmap BASE, belongs to the disk that VM now has, and gives DISK its
 * identity. Returns the reason if not, else NULL. */
static char *identify(FlFleeceDisk *disk, const GPtrArray *disks, const FlVmDisk *vm,
                      const FlPoint *point, const FlVmBitmap *base)
{
    const FlVmDisk *twin = find_twin(disks, vm, base->name);
    g_autoptr(FlPoint) identity = find_identity(vm, point->series);
    uint64_t size = point->size;

    if (twin != NULL && point->unique)
        return g_strdup_printf("disk %s has the same restore point %s: one of them is a copy",
                               twin->name, point->id);
    if (twin != NULL)
        return g_strdup_printf("disk %s has the same restore point %s, which an earlier version "
                               "made: it is unknown which disk it belongs to",
                               twin->name, point->id);
    if (point->unique) {
        if (identity == NULL)
            return g_strdup_printf(
                "the bitmap that identifies the disk of restore point %s was removed", point->id);
        if (g_strcmp0(identity->binding, disk->binding) != 0 && vm->persistent)
            return g_strdup_printf(FL_POINT_BACKING_CHANGED, point->id);
        if (g_strcmp0(identity->binding, disk->binding) != 0)
            return g_strdup_printf("restore point %s was made for another device, node or file",
                                   point->id);
        size = identity->size;
    }
    if (size != vm->size)
        return g_strdup_printf("the disk's size changed since restore point %s, to "
                               "%" G_GUINT64_FORMAT " bytes",
                               point->id, vm->size);
    if (point->unique && was_cut(vm, identity))
        return g_strdup_printf("the disk was shrunk since restore point %s, and grown again",
                               point->id);
    if (was_cleared(vm, base, point))
        return g_strdup_printf("restore point %s was cleared", point->id);
    if (point->unique)
        disk->disk.disk_id = g_strdup(identity->id);
    return NULL;
}

/* Chooses the base of the increment, or reports why there is none. */
static bool choose_base(FlFleeceDisk *disk, const GPtrArray *disks, const FlVmDisk *vm,
                        const FlSnapshotOptions *options, const char *inconsistent, GError **error)
{
    const char *series = fl_snapshot_series(options);
    g_autoptr(FlPoint) point = NULL;
    const FlVmBitmap *base = last_point(vm, series, &point);

    if (!vm->writable) {
        disk->disk.reason = g_strdup(FL_SNAPSHOT_READ_ONLY);
    } else if (vm->shared) {
        disk->disk.reason = g_strdup("it is shared with other VMs, whose writes no bitmap records");
    } else if (options->full) {
        disk->disk.reason = g_strdup("a full backup was requested");
    } else if (base == NULL && inconsistent != NULL) {
        disk->disk.reason = g_strdup_printf(
            "QEMU did not exit cleanly, so restore point %s is lost (it has been removed)",
            inconsistent);
    } else if (base == NULL && !vm->persistent) {
        disk->disk.reason =
            g_strdup_printf("there is no restore point of series '%s'; for this disk (format %s) "
                            "they are only in memory and are lost when QEMU exits",
                            series, vm->driver);
    } else if (base == NULL) {
        disk->disk.reason = g_strdup_printf("there is no restore point of series '%s'", series);
    } else if ((disk->disk.reason = identify(disk, disks, vm, point, base)) != NULL) {
        return true;
    } else if (base->busy) {
        return fl_fail(
            error,
            "disk %s: its bitmap %s is in use by another operation; end that operation first",
            vm->name, base->name);
    } else {
        disk->disk.base = g_strdup(point->id);
        add_copy(disk, base, series);
    }
    return true;
}

/* Adds copies of the bitmaps that fleecefs did not create. */
static void add_users_bitmaps(FlFleeceDisk *disk, const FlVmDisk *vm, const char *series,
                              GPtrArray *notes)
{
    for (guint i = 0; i < vm->bitmaps->len; i++) {
        const FlVmBitmap *bitmap = g_ptr_array_index(vm->bitmaps, i);
        g_autoptr(FlPoint) point = fl_point_parse(bitmap->name);
        const char *why = NULL;

        if (point != NULL)
            continue;
        if (bitmap->inconsistent)
            why = "is inconsistent: QEMU did not exit cleanly";
        else if (bitmap->busy)
            why = "is in use by another operation";
        else if (g_str_equal(bitmap->name, series))
            why = "has the name of the series";
        if (why == NULL)
            add_copy(disk, bitmap, bitmap->name);
        else
            g_ptr_array_add(notes, g_strdup_printf("disk %s: bitmap '%s' is left out: it %s",
                                                   vm->name, bitmap->name, why));
    }
}

/* Returns what a restore point of VM is bound to. Writes to backing files are in no bitmap of the
 * disk. */
static char *binding_of(const FlVmDisk *vm)
{
    g_autofree char *files = NULL;

    if (vm->persistent)
        return fl_point_backing_binding(vm->backing);
    files = g_strconcat(vm->file != NULL ? vm->file : "", vm->backing, NULL);
    return fl_point_binding(vm->node, vm->qdev, files);
}

static FlFleeceDisk *plan_disk(const GPtrArray *disks, const FlVmDisk *vm, guint index,
                               const FlSnapshotOptions *options, const char *inconsistent,
                               GPtrArray *notes, GError **error)
{
    FlFleeceDisk *disk = g_new0(FlFleeceDisk, 1);

    disk->index = index;
    disk->node = g_strdup(vm->node);
    disk->qdev = g_strdup(vm->qdev);
    disk->persistent = vm->persistent;
    disk->no_point = vm->shared || !vm->writable;
    disk->binding = binding_of(vm);
    disk->copies = g_ptr_array_new_with_free_func(free_copy);
    disk->scratch = -1;
    disk->disk.name = g_strdup(vm->name);
    /* A TCP server may be shared, and the address may be that of the wrong one: make the name
     * unique. */
    disk->disk.export_name =
        fl_snapshot_own_option(options, "nbd") == NULL
            ? g_strdup(vm->name)
            : g_strdup_printf(FL_FLEECE_PREFIX "%08x-%s", g_random_int(), vm->name);
    disk->disk.size = vm->size;
    disk->disk.whole_room = vm->reports;
    disk->disk.bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)fl_bitmap_free);
    if (!choose_base(disk, disks, vm, options, inconsistent, error)) {
        free_disk(disk);
        return NULL;
    }
    add_users_bitmaps(disk, vm, fl_snapshot_series(options), notes);
    return disk;
}

/* A shared disk is refused unless the user named it; then a note says what to expect. */
static bool check_shared(const FlVmDisk *disk, const FlSnapshotOptions *options, GPtrArray *notes,
                         GError **error)
{
    if (!disk->shared || !disk->writable)
        return true;
    if (options->disks == NULL)
        return fl_fail(error, FL_SNAPSHOT_SHARED_REFUSED, disk->name, "share-rw=on");
    g_ptr_array_add(notes, g_strdup_printf(FL_SNAPSHOT_SHARED_NOTE, disk->name));
    return true;
}

static bool can_be_taken(const FlVmDisk *disk, const FlSnapshotOptions *options)
{
    return disk->writable || (disk->read_only && options->read_only);
}

static void note_left_out(const GPtrArray *disks, const FlSnapshotOptions *options,
                          GPtrArray *notes)
{
    g_autoptr(GString) names = g_string_new(NULL);

    for (guint i = 0; i < disks->len; i++) {
        const FlVmDisk *disk = g_ptr_array_index(disks, i);
        if (!can_be_taken(disk, options))
            g_string_append_printf(names, "%s%s (%s)", names->len > 0 ? ", " : "", disk->name,
                                   disk->left_out);
    }
    if (names->len > 0)
        g_ptr_array_add(notes, g_strdup_printf("left out: %s", names->str));
}

void fl_fleece_add_missing(const GPtrArray *disks, const FlSnapshotOptions *options,
                           GPtrArray *missing)
{
    for (guint i = 0; i < disks->len && options->disks == NULL; i++) {
        const FlVmDisk *disk = g_ptr_array_index(disks, i);

        if (disk->foreign)
            g_ptr_array_add(missing, g_strdup(disk->name));
    }
}

static bool is_named(const FlVmDisk *disk, const char *name)
{
    return g_str_equal(disk->name, name) || g_str_equal(disk->node, name);
}

static bool is_asked_for(const FlVmDisk *disk, const FlSnapshotOptions *options)
{
    if (options->disks == NULL)
        return can_be_taken(disk, options);
    for (const char *const *name = options->disks; *name != NULL; name++) {
        if (is_named(disk, *name))
            return true;
    }
    return false;
}

/* Checks that each disk the user named exists and can be backed up. */
static bool check_names(const GPtrArray *disks, const FlSnapshotOptions *options, GError **error)
{
    for (const char *const *name = options->disks; name != NULL && *name != NULL; name++) {
        g_autoptr(GString) known = g_string_new(NULL);
        const FlVmDisk *found = NULL;

        for (guint i = 0; i < disks->len; i++) {
            const FlVmDisk *disk = g_ptr_array_index(disks, i);
            if (is_named(disk, *name))
                found = disk;
            if (can_be_taken(disk, options))
                g_string_append_printf(known, "%s%s", known->len > 0 ? ", " : "", disk->name);
        }
        if (found == NULL)
            return fl_fail(error, "no disk '%s'; the VM has: %s", *name, known->str);
        if (!can_be_taken(found, options))
            return fl_fail(error, "cannot back up disk %s: it is %s; copy its image instead%s",
                           *name, found->left_out,
                           found->read_only ? FL_SNAPSHOT_READ_ONLY_HINT : "");
    }
    return true;
}

/* NAMES: of the disks checked so far; the name of VM is added. */
static bool check_disk(const FlVmDisk *vm, GHashTable *names, const FlSnapshotOptions *options,
                       GPtrArray *notes, GError **error)
{
    if (!check_shared(vm, options, notes, error))
        return false;
    if (vm->inactive)
        return fl_fail(error, FL_VM_INACTIVE, vm->name);
    if (vm->has_job)
        return fl_fail(error, "disk %s: it is in use by a block job (%s); end that first", vm->name,
                       vm->driver);
    return g_hash_table_add(names, vm->name) ||
           fl_fail(error, "two disks are called '%s'; give their nodes names", vm->name);
}

GPtrArray *fl_fleece_plan(const GPtrArray *disks, const FlSnapshotOptions *options,
                          GHashTable *inconsistent, GPtrArray *notes, GError **error)
{
    g_autoptr(GPtrArray) plan = g_ptr_array_new_with_free_func(free_disk);
    g_autoptr(GHashTable) nodes = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);

    if (!check_names(disks, options, error))
        return NULL;
    for (guint i = 0; i < disks->len; i++) {
        const FlVmDisk *vm = g_ptr_array_index(disks, i);
        const char *lost = g_hash_table_lookup(inconsistent, vm->node);
        FlFleeceDisk *disk;

        /* Two devices may share a node. */
        if (!is_asked_for(vm, options) || !g_hash_table_add(nodes, vm->node))
            continue;
        if (!check_disk(vm, names, options, notes, error))
            return NULL;
        disk = plan_disk(disks, vm, plan->len, options, lost, notes, error);
        if (disk == NULL)
            return NULL;
        g_ptr_array_add(plan, disk);
    }
    if (options->disks == NULL)
        note_left_out(disks, options, notes);
    if (plan->len == 0) {
        fl_fail(error, "this VM has no writable disk");
        return NULL;
    }
    return g_steal_pointer(&plan);
}

static void add_action(JsonArray *actions, const char *type, JsonNode *data)
{
    json_array_add_element(actions,
                           fl_qmp_args(fl_qmp_string("type", type), fl_qmp_node("data", data)));
}

/* Whether a shrink could cut the last granule without clearing its bit in the identity bitmap; the
 * increment then always includes that granule. */
static bool needs_end(const FlFleeceDisk *disk, const FlFleeceCopy *copy)
{
    return disk->disk.base != NULL && copy == g_ptr_array_index(disk->copies, 0) &&
           fl_fleece_tail_granularity(disk->disk.size) > fl_fleece_tail_granularity(1);
}

static JsonNode *merge_args(const char *overlay, const FlFleeceDisk *disk, const FlFleeceCopy *copy,
                            const char *series)
{
    g_autofree char *identity = fl_point_disk(series, disk->disk.disk_id);
    JsonArray *sources = json_array_new();

    if (needs_end(disk, copy))
        json_array_add_element(sources, fl_qmp_args(fl_qmp_string("node", disk->node),
                                                    fl_qmp_string("name", identity)));

    json_array_add_element(sources, fl_qmp_args(fl_qmp_string("node", disk->node),
                                                fl_qmp_string("name", copy->source)));
    return fl_qmp_args(fl_qmp_string("node", overlay), fl_qmp_string("target", copy->name),
                       fl_qmp_node("bitmaps", fl_json_array_node(sources)));
}

void fl_fleece_name_point(FlFleeceDisk *disk, gint64 seconds)
{
    FlSnapshotDisk *names = &disk->disk;

    if (disk->no_point)
        return;
    names->restore_point = fl_point_id(seconds);
    disk->new_identity = names->disk_id == NULL;
    if (disk->new_identity)
        names->disk_id = fl_point_disk_id(names->restore_point, names->size, disk->binding);
}

/* Adds a bitmap whose mere existence matters. */
static void add_marker(JsonArray *actions, const FlFleeceDisk *disk, const char *name)
{
    add_action(actions, "block-dirty-bitmap-add",
               fl_qmp_args(fl_qmp_string("node", disk->node), fl_qmp_string("name", name),
                           fl_qmp_bool("persistent", disk->persistent),
                           fl_qmp_bool("disabled", true),
                           fl_qmp_int("granularity", MARKER_GRANULARITY)));
}

/* Adds the identity bitmap, with the bit at the disk's end set. */
static void add_identity(JsonArray *actions, const FlFleeceDisk *disk, const char *series)
{
    g_autofree char *name = fl_point_disk(series, disk->disk.disk_id);
    g_autofree char *tail = fl_fleece_id(disk, FL_FLEECE_TAIL);
    JsonArray *sources = json_array_new();

    json_array_add_element(
        sources, fl_qmp_args(fl_qmp_string("node", tail), fl_qmp_string("name", FL_FLEECE_TAIL)));
    add_action(actions, "block-dirty-bitmap-add",
               fl_qmp_args(
                   fl_qmp_string("node", disk->node), fl_qmp_string("name", name),
                   fl_qmp_bool("persistent", disk->persistent), fl_qmp_bool("disabled", true),
                   fl_qmp_int("granularity", (gint64)fl_fleece_tail_granularity(disk->disk.size))));
    add_action(actions, "block-dirty-bitmap-merge",
               fl_qmp_args(fl_qmp_string("node", disk->node), fl_qmp_string("target", name),
                           fl_qmp_node("bitmaps", fl_json_array_node(sources))));
}

/* Adds a bitmap that records from now on. */
static void add_recording(JsonArray *actions, const FlFleeceDisk *disk, const char *name)
{
    add_action(actions, "block-dirty-bitmap-add",
               fl_qmp_args(fl_qmp_string("node", disk->node), fl_qmp_string("name", name),
                           fl_qmp_bool("persistent", disk->persistent)));
}

static void add_point(JsonArray *actions, const FlFleeceDisk *disk, const char *series)
{
    g_autofree char *point = fl_point_bitmap(series, disk->disk.restore_point);
    g_autofree char *check = fl_point_check(series, disk->disk.restore_point);
    g_autofree char *marker = fl_point_marker(series, disk->disk.restore_point);

    /* The point first: a guest write from an iothread between the two must not be missing from
     * it. */
    add_recording(actions, disk, point);
    add_recording(actions, disk, check);
    add_marker(actions, disk, marker);
    if (disk->new_identity)
        add_identity(actions, disk, series);
}

static void add_disk(JsonArray *actions, const FlFleeceDisk *disk, const char *series)
{
    g_autofree char *overlay = fl_fleece_id(disk, "overlay");
    g_autofree char *job = fl_fleece_id(disk, "job");
    g_autofree char *filter = fl_fleece_id(disk, "filter");

    if (!disk->no_point)
        add_point(actions, disk, series);
    for (guint i = 0; i < disk->copies->len; i++) {
        const FlFleeceCopy *copy = g_ptr_array_index(disk->copies, i);
        add_action(actions, "block-dirty-bitmap-add",
                   fl_qmp_args(fl_qmp_string("node", overlay), fl_qmp_string("name", copy->name),
                               fl_qmp_bool("persistent", false), fl_qmp_bool("disabled", true),
                               fl_qmp_int("granularity", (gint64)copy->granularity)));
        add_action(actions, "block-dirty-bitmap-merge", merge_args(overlay, disk, copy, series));
    }
    /*
     * Keep a job that ends visible: its export would go on with live data. For the same reason a
     * write that cannot be copied fails (the default of on-cbw-error): break-snapshot lets the
     * write pass and fails only reads through snapshot-access, not those of the overlay.
     */
    add_action(actions, "blockdev-backup",
               fl_qmp_args(fl_qmp_string("job-id", job), fl_qmp_string("device", disk->node),
                           fl_qmp_string("target", overlay), fl_qmp_string("sync", "none"),
                           fl_qmp_bool("auto-dismiss", false),
                           fl_qmp_string("filter-node-name", filter)));
}

JsonArray *fl_fleece_snapshot_actions(const GPtrArray *disks, const char *series)
{
    JsonArray *actions = json_array_new();

    for (guint i = 0; i < disks->len; i++)
        add_disk(actions, g_ptr_array_index(disks, i), series);
    return actions;
}
