/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Scratch space: room for the blocks that the guest overwrites. */
#include "snapshot/session.h"

#include <errno.h>
#include <sys/statvfs.h>

#define MIB (UINT64_C(1) << 20)
/* Minimum per disk; with less, the snapshot would be lost before it is mounted. */
#define LEAST_ROOM (4 * MIB)
/* Bounds of the reserve. It covers what the guest overwrites between the check that finds the space
 * exhausted and the end of the backup job; a guest may write more than 500 MB/s. */
#define LEAST_RESERVE (1 * MIB)
#define MOST_RESERVE  (256 * MIB)

bool fl_snapshot_free_room(const char *path, uint64_t *room, GError **error)
{
    struct statvfs fs;

    if (statvfs(path, &fs) < 0)
        return fl_fail(error, "scratch directory %s: %s; choose another with -o scratch=DIR", path,
                       g_strerror(errno));
    *room = (uint64_t)fs.f_bavail * fs.f_frsize;
    return true;
}

/* A qcow2 image needs 10 bytes of tables per 64 KiB cluster, rounded up to clusters; an encrypted
 * one also has a 2 MiB header. */
uint64_t fl_snapshot_most_room(const FlSnapshotDisk *disk)
{
    return disk->size + disk->size / 4096 + 4 * MIB;
}

/* PATH has ROOM bytes free but needs LEAST. DISK, unless NULL, is the largest disk that needs room
 * for its full size. */
static bool fail_room(const char *path, uint64_t room, uint64_t least, const FlSnapshotDisk *disk,
                      GError **error)
{
    g_autofree char *why = NULL;

    if (disk != NULL)
        why = g_strdup_printf(", because all of disk %s must fit: its device reports ENOSPC to the "
                              "guest (werror=report) instead of pausing it",
                              disk->name);
    return fl_fail(error,
                   "scratch directory %s: %" G_GUINT64_FORMAT
                   " MiB free, at least %" G_GUINT64_FORMAT
                   " MiB are needed%s; choose another with -o scratch=DIR",
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

        if (disk->image != NULL)
            continue;
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
                         " MiB; if the guest overwrites more than that while the snapshot is "
                         "mounted, the snapshot is lost",
                         path, room / MIB, most / MIB);
    return true;
}
