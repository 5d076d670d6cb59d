/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct FlMountpoint {
    int folder; /* O_PATH */
    char *name; /* in that folder */
    dev_t device;
    uint64_t id; /* mount id; 0 if the kernel does not report it */
    char *device_name;
};

/* Gets device and mount id of FD (O_PATH) from the kernel, without asking the file system. */
static bool identify(int fd, dev_t *device, uint64_t *id)
{
    struct statx st;

    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_MNT_ID, &st) != 0)
        return false;
    *device = makedev(st.stx_dev_major, st.stx_dev_minor);
    *id = (st.stx_mask & STATX_MNT_ID) != 0 ? st.stx_mnt_id : 0;
    return true;
}

/* Whether mountinfo (proc(5)) lists a FUSE file system with this device; true if unreadable. */
static bool is_fuse(const char *device_name)
{
    g_autofree char *text = NULL;
    g_autofree char *wanted = g_strdup_printf(" %s ", device_name);
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL))
        return true;
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        const char *type = strstr(*line, " - ");

        if (type != NULL && g_str_has_prefix(type, " - fuse") && strstr(*line, wanted) != NULL)
            return true;
    }
    return false;
}

static FlMountpoint *open_folder(int fd, GError **error)
{
    g_autoptr(FlMountpoint) mountpoint = g_new0(FlMountpoint, 1);
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *path = g_file_read_link(link, NULL);
    g_autofree char *folder = path != NULL ? g_path_get_dirname(path) : NULL;
    int again;

    mountpoint->folder = -1;
    if (path == NULL || !identify(fd, &mountpoint->device, &mountpoint->id)) {
        fl_fail(error, "it cannot be identified: %s", g_strerror(errno));
        return NULL;
    }
    mountpoint->device_name =
        g_strdup_printf("%u:%u", major(mountpoint->device), minor(mountpoint->device));
    mountpoint->name = g_path_get_basename(path);
    mountpoint->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    again = mountpoint->folder >= 0 ? fl_mountpoint_open(mountpoint) : -1;
    if (again < 0 || !is_fuse(mountpoint->device_name)) {
        if (again >= 0)
            close(again);
        fl_fail(error, "another file system is mounted there");
        return NULL;
    }
    close(again);
    return g_steal_pointer(&mountpoint);
}

FlMountpoint *fl_mountpoint_new(const char *path, GError **error)
{
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    FlMountpoint *mountpoint = NULL;

    if (fd < 0) {
        fl_fail(error, "%s: %s", path, g_strerror(errno));
        return NULL;
    }
    mountpoint = open_folder(fd, error);
    if (mountpoint == NULL)
        g_prefix_error(error, "mounted on %s, but ", path);
    close(fd);
    return mountpoint;
}

void fl_mountpoint_free(FlMountpoint *mountpoint)
{
    if (mountpoint == NULL)
        return;
    if (mountpoint->folder >= 0)
        close(mountpoint->folder);
    g_free(mountpoint->name);
    g_free(mountpoint->device_name);
    g_free(mountpoint);
}

int fl_mountpoint_folder(const FlMountpoint *mountpoint)
{
    return mountpoint->folder;
}

const char *fl_mountpoint_device(const FlMountpoint *mountpoint)
{
    return mountpoint->device_name;
}

int fl_mountpoint_open(const FlMountpoint *mountpoint)
{
    int fd =
        openat(mountpoint->folder, mountpoint->name, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
    dev_t device;
    uint64_t id;

    if (fd < 0)
        return -1;
    if (identify(fd, &device, &id) && device == mountpoint->device && id == mountpoint->id)
        return fd;
    close(fd);
    errno = ESTALE;
    return -1;
}
