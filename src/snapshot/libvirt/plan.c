/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plans what to do with each disk, as a function of what libvirt reports about it. */
#include "snapshot/libvirt/session.h"

#include "map/context.h"
#include "snapshot/point.h"

#include <string.h>

static void free_disk(gpointer data)
{
    FlLibvirtDisk *disk = data;

    fl_snapshot_disk_clear(&disk->disk);
    g_free(disk->checkpoint);
    g_free(disk->keys);
    g_free(disk->fingerprint);
    fl_image_free(disk->image);
    g_clear_pointer(&disk->identities, g_ptr_array_unref);
    g_free(disk);
}

/* Whether nobody can write to the disk: its image is then served as is. */
static bool is_read_only(const FlDomainDisk *disk)
{
    return disk->read_only || g_str_equal(disk->device, "cdrom");
}

/* Returns why DISK cannot be backed up; NULL if it can. */
static const char *obstacle(const FlDomainDisk *disk, bool running,
                            const FlSnapshotOptions *options)
{
    bool taken = options->read_only && is_read_only(disk);

    if (!g_str_equal(disk->device, "disk") && !taken)
        return disk->device;
    if (disk->empty)
        return "empty";
    if (is_read_only(disk) && !taken)
        return "read-only";
    if (taken && (disk->path == NULL || disk->slice))
        return "read-only, and not a separate file";
    if (disk->vhost_user)
        return "a vhost-user disk, which belongs to another process";
    if (running && disk->transient)
        return "transient, which libvirt does not back up while the VM runs";
    if (!running && disk->slice)
        return "a slice of a file, and the VM is shut off";
    if (!running && disk->path == NULL)
        return "not a file, and the VM is shut off";
    return NULL;
}

static bool is_asked_for(const FlDomainDisk *disk, const FlSnapshotOptions *options)
{
    return options->disks == NULL || g_strv_contains(options->disks, disk->target);
}

bool fl_libvirt_is_wanted(const FlDomainDisk *disk, bool running, const FlSnapshotOptions *options)
{
    return obstacle(disk, running, options) == NULL && is_asked_for(disk, options);
}

/* Whether a backup of all of the VM should have DISK. */
static bool has_data(const FlDomainDisk *disk, const FlSnapshotOptions *options)
{
    bool is_disk = g_str_equal(disk->device, "disk") || g_str_equal(disk->device, "lun");

    return !disk->empty && (is_read_only(disk) ? options->read_only : is_disk);
}

void fl_libvirt_add_missing(const FlDomain *domain, bool running, const FlSnapshotOptions *options,
                            GPtrArray *missing)
{
    for (guint i = 0; i < domain->disks->len; i++) {
        const FlDomainDisk *disk = g_ptr_array_index(domain->disks, i);

        if (is_asked_for(disk, options) && has_data(disk, options) &&
            obstacle(disk, running, options) != NULL)
            g_ptr_array_add(missing, g_strdup(disk->target));
    }
}

/* Whether bitmaps in the disk's image persist after QEMU exits. */
static bool has_place(const FlDomainDisk *disk)
{
    return g_strcmp0(disk->format, "qcow2") == 0 && !disk->no_bitmaps;
}

/* Returns the base of increments: the checkpoint that the user named or, failing that, the last
 * committed one of SERIES, which has the most ancestors; NULL if there is none. */
static const FlCheckpoint *find_base(const GPtrArray *checkpoints, const FlSnapshotOptions *options)
{
    const char *series = fl_snapshot_series(options);
    const char *since = fl_snapshot_own_option(options, "since");
    const FlCheckpoint *last = NULL;

    for (guint i = 0; i < checkpoints->len; i++) {
        const FlCheckpoint *checkpoint = g_ptr_array_index(checkpoints, i);
        g_autoptr(FlPoint) point = NULL;

        if (since != NULL) {
            if (g_str_equal(checkpoint->name, since))
                return checkpoint;
            continue;
        }
        if (!checkpoint->ours || checkpoint->pending)
            continue;
        point = fl_point_parse(checkpoint->name);
        if (g_str_equal(point->series, series) &&
            (last == NULL ||
             fl_checkpoint_depth(checkpoint, checkpoints) > fl_checkpoint_depth(last, checkpoints)))
            last = checkpoint;
    }
    return last;
}

static bool check_since(const FlCheckpoint *base, const GPtrArray *checkpoints, const char *since,
                        GError **error)
{
    g_autoptr(GString) known = g_string_new(NULL);

    if (since == NULL || base != NULL)
        return true;
    for (guint i = 0; i < checkpoints->len; i++) {
        const FlCheckpoint *checkpoint = g_ptr_array_index(checkpoints, i);
        g_string_append_printf(known, "%s%s", i > 0 ? ", " : "", checkpoint->name);
    }
    return fl_fail(error, "no checkpoint '%s'; the VM has: %s", since,
                   known->len > 0 ? known->str : "none");
}

void fl_libvirt_make_full(FlLibvirtDisk *disk, char *reason)
{
    g_free(disk->disk.reason);
    disk->disk.reason = reason;
    g_clear_pointer(&disk->disk.base, g_free);
    g_clear_pointer(&disk->disk.disk_id, g_free);
    g_clear_pointer(&disk->disk.fingerprint, g_free);
    g_clear_pointer(&disk->checkpoint, g_free);
    g_ptr_array_set_size(disk->disk.bitmaps, 0);
}

static void make_incremental(FlLibvirtDisk *disk, const FlCheckpoint *base,
                             const FlCheckpointDisk *was, const char *series, bool running)
{
    g_autoptr(FlPoint) point = base->ours ? fl_point_parse(base->name) : NULL;
    FlBitmap *bitmap = fl_bitmap_new(series, NULL, 0);

    disk->checkpoint = g_strdup(base->name);
    disk->disk.base = g_strdup(point != NULL ? point->id : base->name);
    disk->disk.disk_id = g_strdup(was->disk_id);
    disk->disk.fingerprint = g_strdup(was->fingerprint);
    if (!running) {
        g_free(bitmap->context);
        bitmap->context = fl_context_of_bitmap(base->name);
    }
    g_ptr_array_add(disk->disk.bitmaps, bitmap);
}

/* Returns another disk of DOMAIN that matches WAS; NULL if none does. */
static const FlDomainDisk *find_twin(const FlDomain *domain, const FlDomainDisk *vm,
                                     const FlCheckpoint *base, const FlCheckpointDisk *was)
{
    for (guint i = 0; i < domain->disks->len; i++) {
        const FlDomainDisk *other = g_ptr_array_index(domain->disks, i);
        if (other != vm && fl_libvirt_recognize(base, other) == was)
            return other;
    }
    return NULL;
}

static void choose_mode(FlLibvirtDisk *disk, const FlDomain *domain, const FlDomainDisk *vm,
                        const FlCheckpoint *base, const FlSnapshotOptions *options, bool running)
{
    const char *series = fl_snapshot_series(options);
    const FlCheckpointDisk *was = base != NULL ? fl_libvirt_recognize(base, vm) : NULL;
    const FlDomainDisk *twin = was != NULL ? find_twin(domain, vm, base, was) : NULL;
    char *reason = NULL;

    if (is_read_only(vm))
        reason = g_strdup(FL_SNAPSHOT_READ_ONLY);
    else if (vm->shareable)
        reason = g_strdup("it is shared with other VMs, whose writes no bitmap records");
    else if (options->full)
        reason = g_strdup("a full backup was requested");
    else if (vm->no_bitmaps)
        reason = g_strdup("its image (qcow2 with compat=0.10) cannot store restore points; while "
                          "the VM is shut off, qemu-img amend -o compat=1.1 changes that");
    else if (!has_place(vm))
        reason = g_strdup_printf("its image (format %s) cannot store restore points",
                                 vm->format != NULL ? vm->format : "unknown");
    else if (base == NULL)
        reason = g_strdup_printf("there is no restore point of series '%s'", series);
    else if (!g_hash_table_contains(base->disks, vm->target))
        reason = g_strdup_printf("the disk was not in checkpoint %s", base->name);
    else if (was == NULL)
        reason = g_strdup_printf("its image is not the one that checkpoint %s was made of: it was "
                                 "replaced, or is a copy",
                                 base->name);
    else if (twin != NULL)
        reason = g_strdup_printf("disk %s has the same image, or a copy of it", twin->target);
    else if (was->size != 0 && was->size != vm->size)
        reason = g_strdup_printf(
            "the disk's size changed since checkpoint %s, to %" G_GUINT64_FORMAT " bytes",
            base->name, vm->size);
    if (reason != NULL)
        fl_libvirt_make_full(disk, reason);
    else
        make_incremental(disk, base, was, series, running);
}

static FlLibvirtDisk *plan_disk(const FlDomain *domain, const FlDomainDisk *vm,
                                const FlCheckpoint *base, const FlSnapshotOptions *options,
                                bool running)
{
    FlLibvirtDisk *disk = g_new0(FlLibvirtDisk, 1);

    disk->disk.name = g_strdup(vm->target);
    disk->disk.export_name = g_strdup(vm->target);
    disk->disk.size = vm->size;
    disk->disk.whole_room = vm->reports;
    disk->disk.bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)fl_bitmap_free);
    disk->point = running && has_place(vm) && !vm->shareable && !is_read_only(vm);
    if (!running || is_read_only(vm)) {
        disk->disk.image = g_strdup(vm->path);
        disk->disk.image_format = g_strdup(vm->format);
    }
    disk->keys = fl_libvirt_join_keys(vm);
    choose_mode(disk, domain, vm, base, options, running);
    return disk;
}

/* Checks that each disk the user named exists and can be backed up. */
static bool check_names(const FlDomain *domain, const FlSnapshotOptions *options, bool running,
                        GError **error)
{
    for (const char *const *name = options->disks; name != NULL && *name != NULL; name++) {
        g_autoptr(GString) known = g_string_new(NULL);
        const FlDomainDisk *found = NULL;

        for (guint i = 0; i < domain->disks->len; i++) {
            const FlDomainDisk *disk = g_ptr_array_index(domain->disks, i);
            if (g_str_equal(disk->target, *name))
                found = disk;
            if (obstacle(disk, running, options) == NULL)
                g_string_append_printf(known, "%s%s", known->len > 0 ? ", " : "", disk->target);
        }
        if (found == NULL)
            return fl_fail(error, "no disk '%s'; the VM has: %s", *name, known->str);
        if (obstacle(found, running, options) != NULL)
            return fl_fail(error, "cannot back up disk %s: it is %s; copy its image instead%s",
                           *name, obstacle(found, running, options),
                           is_read_only(found) && !found->empty && !options->read_only
                               ? FL_SNAPSHOT_READ_ONLY_HINT
                               : "");
    }
    return true;
}

/* A shared disk is refused unless the user named it; then a note says what to expect. */
static bool check_shared(const FlDomainDisk *disk, const FlSnapshotOptions *options,
                         GPtrArray *notes, GError **error)
{
    if (!disk->shareable || is_read_only(disk))
        return true;
    if (options->disks == NULL)
        return fl_fail(error, FL_SNAPSHOT_SHARED_REFUSED, disk->target, "<shareable/>");
    g_ptr_array_add(notes, g_strdup_printf(FL_SNAPSHOT_SHARED_NOTE, disk->target));
    return true;
}

static bool check_disk(const FlDomainDisk *disk, bool iothread_fails,
                       const FlSnapshotOptions *options, GPtrArray *notes, GError **error)
{
    if (!check_shared(disk, options, notes, error))
        return false;
    return !(disk->iothread && iothread_fails && !is_read_only(disk)) ||
           fl_snapshot_refuse_iothread(disk->target, error);
}

/* ANY: there is something to take a snapshot of. */
static bool check_plan(const GPtrArray *plan, bool any, const char *left_out, GError **error)
{
    if (plan->len == 0)
        return fl_fail(error, "this VM has no disk that can be backed up%s%s",
                       *left_out != '\0' ? ": " : "", left_out);
    return any || fl_fail(error, "all of these disks are read-only, so there is nothing to take a "
                                 "snapshot of; mount their images");
}

GPtrArray *fl_libvirt_plan(const FlDomain *domain, const GPtrArray *checkpoints, bool running,
                           bool disconnect_kills, const FlSnapshotOptions *options,
                           GPtrArray *notes, GError **error)
{
    g_autoptr(GPtrArray) plan = g_ptr_array_new_with_free_func(free_disk);
    g_autoptr(GString) left_out = g_string_new(NULL);
    const FlCheckpoint *base = find_base(checkpoints, options);
    bool any = !running;

    if (!check_since(base, checkpoints, fl_snapshot_own_option(options, "since"), error) ||
        !check_names(domain, options, running, error))
        return NULL;
    for (guint i = 0; i < domain->disks->len; i++) {
        const FlDomainDisk *disk = g_ptr_array_index(domain->disks, i);
        const char *why = obstacle(disk, running, options);

        if (!is_asked_for(disk, options))
            continue;
        if (why != NULL) {
            g_string_append_printf(left_out, "%s%s (%s)", left_out->len > 0 ? ", " : "",
                                   disk->target, why);
            continue;
        }
        if (!check_disk(disk, running && disconnect_kills, options, notes, error))
            return NULL;
        g_ptr_array_add(plan, plan_disk(domain, disk, base, options, running));
        any = any || !is_read_only(disk);
    }
    if (left_out->len > 0)
        g_ptr_array_add(notes, g_strdup_printf("left out: %s", left_out->str));
    return check_plan(plan, any, left_out->str, error) ? g_steal_pointer(&plan) : NULL;
}
