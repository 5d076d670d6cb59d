/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Loads the maps of a disk. */
#include "disk-private.h"

#include "util/deadline.h"

#include <errno.h>

/* Seconds after a failed load until the next one may start. */
#define LOAD_PAUSE 1

/* Maps that may have to be confirmed. */
typedef struct {
    FlDisk *disk;
    FlDiskMaps *maps; /* NULL if they could not be loaded */
} Loaded;

static void take_maps(errint_t result, void *opaque)
{
    g_autofree Loaded *loaded = opaque;
    g_autoptr(FlDisk) disk = loaded->disk;
    g_autoptr(FlDiskMaps) maps = loaded->maps;

    disk->loading = 0;
    if (result == 0)
        disk->maps = g_steal_pointer(&maps);
    fl_waiters_tell(disk->waiters, disk, result);
}

static void load_done(FlConn *conn, FlDiskMaps *maps, const GError *error, gpointer opaque)
{
    FlDisk *disk = opaque;
    Loaded *loaded = g_new0(Loaded, 1);

    disk->workers--;
    loaded->disk = disk;
    loaded->maps = maps != NULL ? fl_disk_maps_ref(maps) : NULL;
    if (loaded->maps != NULL && fl_disk_has_fault(disk)) {
        take_maps(-EIO, loaded);
        return;
    }
    if (loaded->maps != NULL && fl_confirm_is_needed(disk->confirm)) {
        fl_confirm_query(disk->confirm, take_maps, loaded);
        return;
    }
    if (error == NULL || disk->failure != NULL ||
        g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
        ;
    else if (g_error_matches(error, FL_ERROR, FL_ERROR_CHANGED))
        fl_disk_fail_changed(disk, error);
    else if (g_error_matches(error, FL_ERROR, FL_ERROR_LOST))
        fl_disk_fail_loudly(disk, error->message);
    else {
        disk->load_again = fl_deadline_in(LOAD_PAUSE);
        g_warning("export \"%s\" of %s: %s", disk->peer.info->name, fl_disk_label(disk),
                  error->message);
    }
    take_maps(error == NULL ? 0 : -EIO, loaded);
}

static void start_load(FlDisk *disk)
{
    disk->loading = g_get_monotonic_time();
    fl_disk_start_watch(disk);
    disk->workers++;
    fl_worker_load(&disk->peer, disk->cancel, &disk->load_moved, load_done, fl_disk_ref(disk));
}

void fl_disk_load(FlDisk *disk, FlDiskLoaded done, void *opaque)
{
    /* Each stat of a file requests the maps: do not let each retry a failed load. */
    if (disk->maps != NULL || disk->failure != NULL ||
        (disk->loading == 0 && g_get_monotonic_time() < disk->load_again)) {
        done(disk, disk->maps != NULL ? 0 : -EIO, opaque);
        return;
    }
    fl_waiters_add(disk->waiters, done, opaque);
    if (disk->loading == 0 && !disk->suspended)
        start_load(disk);
}

void fl_disk_resume(FlDisk *disk)
{
    disk->suspended = false;
    if (fl_waiters_any(disk->waiters) && disk->loading == 0 && disk->maps == NULL)
        start_load(disk);
    fl_disk_pump(disk);
}
