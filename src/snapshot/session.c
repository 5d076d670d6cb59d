/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/session.h"

#include "snapshot/point.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

void fl_snapshot_init(FlSnapshot *backup, const FlProvider *provider,
                      const FlSnapshotOptions *options)
{
    backup->provider = provider;
    backup->options = options;
    backup->state = FL_STATE_IDLE;
    backup->missing = g_ptr_array_new_with_free_func(g_free);
    backup->notes = g_ptr_array_new_with_free_func(g_free);
    backup->report = g_ptr_array_new_with_free_func(g_free);
    backup->socket = -1;
    backup->silent = -1;
    backup->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g_mutex_init(&backup->lock);
}

void fl_snapshot_clear(FlSnapshot *backup)
{
    g_clear_pointer(&backup->disks, g_ptr_array_unref);
    g_clear_pointer(&backup->journal, fl_journal_close);
    g_ptr_array_unref(backup->missing);
    g_ptr_array_unref(backup->notes);
    g_ptr_array_unref(backup->report);
    if (backup->socket >= 0)
        close(backup->socket);
    g_free(backup->vm.uuid);
    g_free(backup->vm.name);
    g_free(backup->vm.source);
    g_free(backup->id);
    if (backup->wake >= 0)
        close(backup->wake);
    g_mutex_clear(&backup->lock);
}

void fl_snapshot_note(FlSnapshot *backup, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_ptr_array_add(backup->notes, g_strdup_vprintf(format, args));
    va_end(args);
}

void fl_snapshot_report(FlSnapshot *backup, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_ptr_array_add(backup->report, g_strdup_vprintf(format, args));
    va_end(args);
}

void fl_snapshot_lose(FlSnapshotDisk *disk, const char *format, ...)
{
    va_list args;

    if (disk->lost != NULL)
        return;
    va_start(args, format);
    disk->lost = g_strdup_vprintf(format, args);
    va_end(args);
}

void fl_snapshot_lose_all(FlSnapshot *backup, const char *why)
{
    for (guint i = 0; i < backup->disks->len; i++)
        fl_snapshot_lose(g_ptr_array_index(backup->disks, i), "%s", why);
}

bool fl_snapshot_newly_lost(const FlSnapshot *backup)
{
    for (guint i = 0; i < backup->disks->len; i++) {
        const FlSnapshotDisk *disk = g_ptr_array_index(backup->disks, i);
        if (disk->lost != NULL && !disk->told)
            return true;
    }
    return false;
}

void fl_snapshot_measure(FlSnapshot *backup)
{
    for (guint i = 0; i < backup->disks->len; i++) {
        FlSnapshotDisk *disk = g_ptr_array_index(backup->disks, i);
        uint64_t used = 0, limit = 0;

        backup->provider->scratch_use(backup, disk, &used, &limit);
        __atomic_store_n(&disk->scratch_used, used, __ATOMIC_RELAXED);
        __atomic_store_n(&disk->scratch_limit, limit, __ATOMIC_RELAXED);
    }
}

void fl_snapshot_set_silent(FlSnapshot *backup, int fd)
{
    g_mutex_lock(&backup->lock);
    backup->silent = fd;
    g_mutex_unlock(&backup->lock);
}

bool fl_snapshot_is_whole(FlSnapshot *backup)
{
    bool whole;

    /* Hold the lock while checking the socket: another thread may close it or read from it. */
    g_mutex_lock(&backup->lock);
    whole = backup->silent >= 0 &&
            poll(&(struct pollfd){.fd = backup->silent, .events = POLLIN}, 1, 0) == 0;
    g_mutex_unlock(&backup->lock);
    return whole;
}

bool fl_snapshot_none_lost(const FlSnapshot *backup, GError **error)
{
    for (guint i = 0; i < backup->disks->len; i++) {
        const FlSnapshotDisk *disk = g_ptr_array_index(backup->disks, i);
        if (disk->lost != NULL)
            return fl_fail(error, "cannot commit: the snapshot of disk %s is lost: %s", disk->name,
                           disk->lost);
    }
    return true;
}

gint64 fl_snapshot_set_time(FlSnapshot *backup, const FlJournal *journal)
{
    struct timespec now;
    gint64 second;

    clock_gettime(CLOCK_REALTIME, &now);
    second = fl_journal_second(journal, now.tv_sec);
    backup->time = second == now.tv_sec ? now : (struct timespec){.tv_sec = second};
    g_free(backup->id);
    backup->id = fl_point_id(second);
    return second;
}

bool fl_snapshot_disconnect_kills(unsigned major, unsigned minor, unsigned micro)
{
    return major * 10000 + minor * 100 + micro < 80203;
}

bool fl_snapshot_refuse_iothread(const char *disk, GError **error)
{
    return fl_fail(error,
                   "disk %s runs in an iothread, and this QEMU may abort when an NBD client "
                   "disconnects from such a disk; 8.2.3, 9.0 and newer do not; exclude the disk "
                   "(-o disk=) or remove its iothread",
                   disk);
}

void fl_snapshot_disk_clear(FlSnapshotDisk *disk)
{
    g_free(disk->name);
    g_free(disk->export_name);
    g_free(disk->image);
    g_free(disk->image_format);
    g_ptr_array_unref(disk->bitmaps);
    g_free(disk->restore_point);
    g_free(disk->base);
    g_free(disk->disk_id);
    g_free(disk->fingerprint);
    g_free(disk->reason);
    g_free(disk->lost);
}
