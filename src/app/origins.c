/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/origins.h"

#include "app/image-point.h"
#include "snapshot/point.h"
#include "util/size.h"

/* For disks deeper in the tree, the export's name makes inode numbers unique. */
static FlOrigin *new_origin(const char *name, const FlExportInfo *export)
{
    g_autofree char *source = NULL;

    if (export->path == NULL)
        return fl_origin_new(name, export->name);
    source = g_build_filename(name, export->name, NULL);
    return fl_origin_new(source, export->path[g_strv_length(export->path) - 1]);
}

FlOrigin *fl_origin_of_export(const FlSourceSpec *spec, const char *label,
                              const FlExportInfo *export, const struct timespec *mounted,
                              const char *series)
{
    FlOrigin *origin = new_origin(spec->name != NULL ? spec->name : label, export);

    origin->time = origin->ctime = *mounted;
    if (export->mtime.tv_sec == 0)
        return origin;
    origin->time = export->mtime;
    origin->ctime = export->ctime;
    origin->format = g_strdup(export->format);
    for (guint i = 0; i < export->bitmaps->len; i++) {
        const FlBitmap *bitmap = export->bitmaps->pdata[i];

        if (bitmap->torn) {
            g_warning("bitmap \"%s\" of %s is in images of different sizes, because the disk was "
                      "resized after an external snapshot; it is not shown; take a full backup",
                      bitmap->name, spec->text);
        } else if (bitmap->inconsistent) {
            g_warning("bitmap \"%s\" of %s is inconsistent, because its last writer was killed; it "
                      "is not shown; take a full backup",
                      bitmap->name, spec->text);
            g_ptr_array_add(origin->inconsistent, g_strdup(bitmap->name));
        } else if (!fl_point_is_note(bitmap->name)) {
            g_ptr_array_add(origin->bitmaps, fl_bitmap_copy(bitmap));
        }
    }
    fl_image_point_choose(origin, export, series);
    if (origin->chain.reason != NULL)
        g_message("%s: a full backup, because %s", spec->text, origin->chain.reason);
    return origin;
}

/* The disk that a scratch file belongs to. */
typedef struct {
    const FlSnapshot *snapshot;
    const FlSnapshotDisk *disk;
} Scratch;

static void scratch_use(const void *opaque, uint64_t *used, uint64_t *limit)
{
    const Scratch *scratch = opaque;

    fl_snapshot_scratch_use(scratch->snapshot, scratch->disk, used, limit);
}

/* Whether BITMAP of INFO is complete; it may not be in the image of a VM that is shut off. */
static bool has_bitmap(const FlExportInfo *info, const FlBitmap *bitmap)
{
    const FlBitmap *found = fl_bitmap_find(info->bitmaps, bitmap->context);

    return info->format == NULL || (found != NULL && fl_bitmap_is_whole(found));
}

void fl_origin_make_full(FlOrigin *origin, uint64_t size, char *reason)
{
    g_autofree char *id = fl_point_id(origin->time.tv_sec);

    g_free(origin->chain.mode);
    origin->chain.mode = g_strdup("full");
    g_free(origin->chain.reason);
    origin->chain.reason = reason;
    g_clear_pointer(&origin->chain.base, g_free);
    g_clear_pointer(&origin->chain.increment, g_free);
    g_free(origin->chain.disk_id);
    origin->chain.disk_id = fl_point_disk_id(id, size, NULL);
}

/* Rounds up, so that only 0 becomes 0. */
static unsigned in_ms(uint64_t ns)
{
    return (unsigned)fl_div_up(ns, 1000000);
}

FlOrigin *fl_origin_of_snapshot(const FlSourceSpec *spec, const FlSnapshot *snapshot,
                                const FlSnapshotDisk *disk, const FlExportInfo *info)
{
    const FlSnapshotVm *vm = fl_snapshot_vm(snapshot);
    FlSnapshotTimes times = fl_snapshot_times(snapshot);
    FlOrigin *origin = fl_origin_new(spec->name != NULL ? spec->name : spec->text, disk->name);

    origin->time = origin->ctime = fl_snapshot_time(snapshot);
    origin->snapshot.taken = true;
    origin->snapshot.begin_ms = in_ms(times.begin);
    origin->snapshot.held_ms = in_ms(times.held);
    origin->snapshot.frozen_ms = in_ms(times.frozen);
    origin->snapshot.scratch_use = scratch_use;
    origin->snapshot.scratch =
        g_memdup2(&(Scratch){.snapshot = snapshot, .disk = disk}, sizeof(Scratch));
    origin->chain.mode = g_strdup(disk->base != NULL ? "incremental" : "full");
    origin->chain.reason = g_strdup(disk->reason);
    origin->chain.restore_point = g_strdup(disk->restore_point);
    origin->chain.base = g_strdup(disk->base);
    origin->chain.disk_id = g_strdup(disk->disk_id);
    origin->snapshot.id = g_strdup(fl_snapshot_id(snapshot));
    origin->vm.uuid = g_strdup(vm->uuid);
    origin->vm.name = g_strdup(vm->name);
    origin->vm.source = g_strdup(vm->source);
    for (guint i = 0; i < disk->bitmaps->len; i++) {
        const FlBitmap *bitmap = disk->bitmaps->pdata[i];
        if (!has_bitmap(info, bitmap)) {
            fl_origin_make_full(
                origin, disk->size,
                g_strdup_printf(
                    "restore point %s is missing in the image or inconsistent: the VM did not shut "
                    "down cleanly, or the image was replaced, or resized after a snapshot",
                    origin->chain.base));
            continue;
        }
        g_ptr_array_add(origin->bitmaps, fl_bitmap_copy(bitmap));
        if (i == 0 && disk->base != NULL)
            origin->chain.increment = g_strdup(bitmap->context);
    }
    return origin;
}
