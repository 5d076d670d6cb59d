/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Room for what the guest overwrites. */
#include "snapshot/session.h"

#include <errno.h>
#include <sys/statvfs.h>

#define MIB (UINT64_C(1) << 20)
/* Without at least this much for each disk the snapshot would break before it was mounted. */
#define LEAST_ROOM (4 * MIB)
/* The reserve lies between the two: what a guest may overwrite between the look that finds no more
 * room and the end of the backup job; it may do so with 500 MB/s and more. */
#define LEAST_RESERVE (1 * MIB)
#define MOST_RESERVE  (256 * MIB)

bool fl_snapshot_free_room(const char *path, uint64_t *room, GError **error)
{
    struct statvfs fs;

    if (statvfs(path, &fs) < 0)
        return fl_fail(error, "scratch directory %s: %s; -o scratch=DIR names another", path,
                       g_strerror(errno));
    *room = (uint64_t)fs.f_bavail * fs.f_frsize;
    return true;
}

bool fl_snapshot_check_room(FlSnapshot *backup, const char *path, uint64_t *reserve, GError **error)
{
    uint64_t room = 0, least = 0, most = 0;

    if (!fl_snapshot_free_room(path, &room, error))
        return false;
    for (guint i = 0; i < backup->disks->len; i++) {
        const FlSnapshotDisk *disk = g_ptr_array_index(backup->disks, i);
        least += MIN(disk->size, LEAST_ROOM);
        most += MIN(disk->size, UINT64_MAX / 2 - most);
    }
    *reserve = CLAMP(room / 2, LEAST_RESERVE, MOST_RESERVE);
    if (room < least + *reserve)
        return fl_fail(error,
                       "scratch directory %s: %" G_GUINT64_FORMAT
                       " MiB free, at least %" G_GUINT64_FORMAT
                       " MiB are needed; -o scratch=DIR names another",
                       path, room / MIB, (least + *reserve) / MIB + 1);
    if (room / 10 < most / 100)
        fl_snapshot_note(backup,
                         "scratch directory %s: %" G_GUINT64_FORMAT
                         " MiB free for disks of %" G_GUINT64_FORMAT
                         " MiB; should the guest overwrite more than fits while the "
                         "snapshot is mounted, the snapshot is lost",
                         path, room / MIB, most / MIB);
    return true;
}
