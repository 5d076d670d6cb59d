/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Missing in the oldest supported kernel headers. */
#define FS_TRUNCATE  (UINT64_C(1) << 14)
#define FS_IOCTL_DEV (UINT64_C(1) << 15)
#define NET_BIND_TCP (UINT64_C(1) << 0)

/* Number of file access rights per ABI version. */
static const unsigned fs_rights[] = {0, 13, 14, 15, 15, 16};
#define NET_VERSION 4

#define READ   (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define WRITE  (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG | FS_TRUNCATE)
#define REMOVE (LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE)
/* Rights that apply to files other than folders. */
#define OF_FILES                                                                                   \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |   \
     FS_TRUNCATE | FS_IOCTL_DEV)

/* struct landlock_ruleset_attr as of version 4; older kernels require the rest to be 0. */
typedef struct {
    uint64_t handled_access_fs, handled_access_net;
} Ruleset;

static long get_version(void)
{
    return syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

static uint64_t get_rights(long version)
{
    unsigned count = fs_rights[CLAMP(version, 0, (long)G_N_ELEMENTS(fs_rights) - 1)];

    return (UINT64_C(1) << count) - 1;
}

int fl_landlock_new(void)
{
    long version = get_version();
    Ruleset ruleset = {.handled_access_fs = get_rights(version),
                       .handled_access_net = version >= NET_VERSION ? NET_BIND_TCP : 0};

    if (version < 1)
        return -1;
    return (int)syscall(SYS_landlock_create_ruleset, &ruleset, sizeof ruleset, 0);
}

void fl_landlock_allow(int ruleset, const char *path, FlSandboxAccess access)
{
    int fd = open(path, O_PATH | O_CLOEXEC);
    struct landlock_path_beneath_attr rule = {
        .allowed_access = (access & FL_SANDBOX_READ ? READ : 0) |
                          (access & FL_SANDBOX_WRITE ? WRITE : 0) |
                          (access & FL_SANDBOX_REMOVE ? REMOVE : 0) |
                          (access & FL_SANDBOX_REMOVE_FOLDERS ? LANDLOCK_ACCESS_FS_REMOVE_DIR : 0),
        .parent_fd = fd,
    };
    struct stat st;

    if (fd < 0)
        return;
    rule.allowed_access &= get_rights(get_version());
    if (fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode))
        rule.allowed_access &= OF_FILES;
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
        g_debug("landlock: %s: %s", path, g_strerror(errno));
    close(fd);
}

void fl_landlock_restrict(int ruleset)
{
    syscall(SYS_landlock_restrict_self, ruleset, 0);
}
