/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Identifies the file of an image on this host. */
#include "snapshot/libvirt/remote.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Returns the device mapper UUID of the volume DEVICE; NULL if it has none. */
static char *volume_uuid(unsigned major, unsigned minor)
{
    g_autofree char *path = g_strdup_printf("/sys/dev/block/%u:%u/dm/uuid", major, minor);
    char *uuid = NULL;

    if (!g_file_get_contents(path, &uuid, NULL, NULL))
        return NULL;
    return g_strchomp(uuid);
}

char *fl_facts_file(uint64_t inode, gint64 second, unsigned nanosecond)
{
    return g_strdup_printf("file %" G_GUINT64_FORMAT " %" G_GINT64_FORMAT ".%u", (guint64)inode,
                           second, nanosecond);
}

/* Identifies a file by its inode number and, if the file system has it, its creation time. */
static char *describe(const char *path)
{
    g_autofree char *uuid = NULL;
    struct statx st;

    if (statx(AT_FDCWD, path, AT_STATX_SYNC_AS_STAT, STATX_TYPE | STATX_INO | STATX_BTIME, &st) < 0)
        return g_strconcat("path ", path, NULL);
    if (S_ISREG(st.stx_mode) && (st.stx_mask & STATX_BTIME) != 0)
        return fl_facts_file(st.stx_ino, st.stx_btime.tv_sec, st.stx_btime.tv_nsec);
    if (S_ISREG(st.stx_mode))
        return g_strdup_printf("file %" G_GUINT64_FORMAT " %s", (guint64)st.stx_ino, path);
    uuid = S_ISBLK(st.stx_mode) ? volume_uuid(st.stx_rdev_major, st.stx_rdev_minor) : NULL;
    return uuid != NULL ? g_strconcat("volume ", uuid, NULL) : g_strconcat("path ", path, NULL);
}

void fl_local_facts(const char *path, FlFacts *facts)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd >= 0 ? pread(fd, facts->header, sizeof facts->header, 0) : 0;

    facts->what = describe(path);
    facts->length = n > 0 ? (size_t)n : 0;
    if (fd >= 0)
        close(fd);
}
