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

/* A qcow2 image has 10 bytes of tables for each cluster of 64 KiB, in clusters. */
uint64_t fl_snapshot_most_room(const FlSnapshotDisk *disk)
{
    return disk->size + disk->size / 4096 + MIB;
}

/* PATH has ROOM, of which LEAST is needed; DISK has a part in that with all of its size, unless it
 * is NULL. */
static bool fail_room(const char *path, uint64_t room, uint64_t least, const FlSnapshotDisk *disk,
                      GError **error)
{
    g_autofree char *why = NULL;

    if (disk != NULL)
        why = g_strdup_printf(", for all of disk %s has to fit: its device tells the guest of a "
                              "write without space (werror=report), where others wait for some",
                              disk->name);
    return fl_fail(error,
                   "scratch directory %s: %" G_GUINT64_FORMAT
                   " MiB free, at least %" G_GUINT64_FORMAT
                   " MiB are needed%s; -o scratch=DIR names another",
                   path, room / MIB, least / MIB + 1, why != NULL ? why : "");
}

bool fl_snapshot_check_room(FlSnapshot *backup, const char *path, uint64_t *reserve, GError **error)
{
    uint64_t room = 0;

    return fl_snapshot_free_room(path, &room, error) &&
           fl_snapshot_check_this_room(backup, path, room, reserve, error);
}

bool fl_snapshot_check_this_room(FlSnapshot *backup, const char *path, uint64_t room,
                                 uint64_t *reserve, GError **error)
{
    const FlSnapshotDisk *whole = NULL;
    uint64_t least = 0, most = 0;

    for (guint i = 0; i < backup->disks->len; i++) {
        const FlSnapshotDisk *disk = g_ptr_array_index(backup->disks, i);
        least += disk->whole_room ? fl_snapshot_most_room(disk) : MIN(disk->size, LEAST_ROOM);
        if (disk->whole_room && (whole == NULL || disk->size > whole->size))
            whole = disk;
        most += MIN(disk->size, UINT64_MAX / 2 - most);
    }
    *reserve = CLAMP(room / 2, LEAST_RESERVE, MOST_RESERVE);
    if (room < least + *reserve)
        return fail_room(path, room, least + *reserve, whole, error);
    if (room / 10 < most / 100)
        fl_snapshot_note(backup,
                         "scratch directory %s: %" G_GUINT64_FORMAT
                         " MiB free for disks of %" G_GUINT64_FORMAT
                         " MiB; should the guest overwrite more than fits while the "
                         "snapshot is mounted, the snapshot is lost",
                         path, room / MIB, most / MIB);
    return true;
}
