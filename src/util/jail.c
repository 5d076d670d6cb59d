/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/jail.h"

#include "syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY    65534
#define PATHS_MAX 300

/* From least to most privilege. Only root uses more than the first. */
typedef enum {
    LEVEL_NOBODY,      /* nobody, in a user namespace without capabilities */
    LEVEL_READ_NOBODY, /* nobody, with CAP_DAC_READ_SEARCH */
    LEVEL_READ_ROOT,   /* root, with only that capability */
    LEVELS,
} Level;

/* The stage at which the trial failed: its exit status. */
enum {
    STAGE_DONE,
    STAGE_NAMESPACES,
    STAGE_ROOT,
    STAGE_RIGHTS,
    STAGE_FILES,
    STAGES,
};

typedef struct {
    char *path; /* absolute */
    char *name; /* in the new root; relative */
    bool folder, file;
} Shown;

struct FlJail {
    GArray *shown;    /* of Shown */
    GPtrArray *tried; /* of char *: other files that must be readable */
    char *folder;     /* the working directory */
    bool root;
    Level level;
    char uid_map[64], gid_map[64];
    struct sock_fprog filter; /* len 0: none */
    bool conflict;
};

static bool disabled;

/* What a dynamically linked program needs. ld.so finds libraries through /etc/ld.so.cache. */
static const char *const basis[] = {"/usr", "/lib",      "/lib32",       "/lib64",
                                    "/bin", "/dev/null", "/dev/urandom", "/etc/ld.so.cache"};

/* Libraries of programs that are not in /usr. */
static const char *const elsewhere[] = {"/nix/store", "/gnu/store"};

static void clear_shown(void *opaque)
{
    Shown *shown = opaque;

    g_free(shown->path);
    g_free(shown->name);
}

static void show(FlJail *jail, const char *path, bool file)
{
    struct stat st, other;
    g_autofree char *canonical = g_canonicalize_filename(path, "/");
    Shown shown = {.file = file};

    if (stat(path, &st) != 0)
        return;
    /* If a is a symbolic link, "a/../b" is not b, and cannot be shown under its canonical name. */
    if (file &&
        (stat(canonical, &other) != 0 || other.st_dev != st.st_dev || other.st_ino != st.st_ino))
        jail->conflict = true;
    shown.path = g_strdup(path);
    shown.name = g_strdup(canonical + 1);
    shown.folder = S_ISDIR(st.st_mode);
    g_array_append_val(jail->shown, shown);
}

/* Shows the installation prefix of a program that is not in /usr. */
static void show_home(FlJail *jail, const char *program)
{
    g_autofree char *folder = program != NULL ? g_path_get_dirname(program) : NULL;
    g_autofree char *prefix = folder != NULL ? g_path_get_dirname(folder) : NULL;

    if (folder == NULL || g_str_has_prefix(folder, "/usr") || g_str_equal(prefix, "/"))
        return;
    show(jail, g_str_has_suffix(folder, "/bin") ? prefix : folder, false);
    for (size_t i = 0; i < G_N_ELEMENTS(elsewhere); i++)
        show(jail, elsewhere[i], false);
}

FlJail *fl_jail_new(const char *program)
{
    FlJail *jail = g_new0(FlJail, 1);
    g_autofree char *found = g_find_program_in_path(program);
    g_autofree char *real = found != NULL ? realpath(found, NULL) : NULL;

    jail->shown = g_array_new(FALSE, FALSE, sizeof(Shown));
    g_array_set_clear_func(jail->shown, clear_shown);
    jail->tried = g_ptr_array_new_with_free_func(g_free);
    jail->folder = g_get_current_dir();
    jail->root = geteuid() == 0;
    for (size_t i = 0; i < G_N_ELEMENTS(basis); i++)
        show(jail, basis[i], false);
    show_home(jail, found);
    if (g_strcmp0(found, real) != 0)
        show_home(jail, real);
    return jail;
}

void fl_jail_free(FlJail *jail)
{
    if (jail == NULL)
        return;
    g_array_unref(jail->shown);
    g_ptr_array_unref(jail->tried);
    g_free(jail->folder);
    g_free(jail->filter.filter);
    g_free(jail);
}

void fl_jail_add_file(FlJail *jail, const char *path)
{
    show(jail, path, true);
}

void fl_jail_add_folder(FlJail *jail, const char *path)
{
    show(jail, path, false);
}

void fl_jail_try_file(FlJail *jail, const char *path)
{
    g_ptr_array_add(jail->tried, g_strdup(path));
}

void fl_jail_disable(void)
{
    disabled = true;
}

/* Below: runs in the forked child, so system calls only. */

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return ok;
}

static bool enter_namespaces(const FlJail *jail)
{
    int needed = CLONE_NEWNS | CLONE_NEWNET;

    if (unshare(jail->root ? needed : needed | CLONE_NEWUSER) != 0)
        return false;
    /* May fail: the system call filter allows no use of them either. */
    unshare(CLONE_NEWIPC);
    unshare(CLONE_NEWUTS);
    return jail->root || (write_file("/proc/self/setgroups", "deny") &&
                          write_file("/proc/self/uid_map", jail->uid_map) &&
                          write_file("/proc/self/gid_map", jail->gid_map));
}

/* Creates the parent folders of NAME, which is modified temporarily. */
static void make_folders(char *name)
{
    for (char *slash = strchr(name, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(name, 0755);
        *slash = '/';
    }
}

/* Clones the mount of SHOWN, a tree or a file, read-only. Returns its descriptor, or -1. */
static int take(const Shown *shown)
{
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID};
    unsigned recursive = shown->folder ? AT_RECURSIVE : 0;
    int fd = (int)syscall(SYS_open_tree, AT_FDCWD, shown->path,
                          OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);

    if (fd >= 0 && syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | recursive, &attributes,
                           sizeof attributes) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool put(const Shown *shown, int fd)
{
    char name[PATH_MAX];
    int target;
    bool ok;

    if (strlen(shown->name) >= sizeof name)
        return false;
    strcpy(name, shown->name);
    make_folders(name);
    if (shown->folder) {
        mkdir(name, 0755);
    } else {
        target = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
        if (target >= 0)
            close(target);
    }
    ok = syscall(SYS_move_mount, fd, "", AT_FDCWD, name, MOVE_MOUNT_F_EMPTY_PATH) == 0;
    close(fd);
    return ok;
}

static bool change_root(const FlJail *jail)
{
    int fds[PATHS_MAX];
    char folder[PATH_MAX];

    if (jail->shown->len > PATHS_MAX || strlen(jail->folder) >= sizeof folder ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return false;
    for (guint i = 0; i < jail->shown->len; i++) {
        fds[i] = take(&g_array_index(jail->shown, Shown, i));
        if (fds[i] < 0)
            return false;
    }
    /* The user nobody must be able to traverse the folders above the files. */
    umask(022);
    /* /proc exists everywhere; whatever it hides has been cloned already. */
    if (mount("fleecefs", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=4m") != 0 ||
        chdir("/proc") != 0)
        return false;
    for (guint i = 0; i < jail->shown->len; i++) {
        if (!put(&g_array_index(jail->shown, Shown, i), fds[i]))
            return false;
    }
    /* Paths may be relative to the working directory. */
    strcpy(folder, jail->folder + 1);
    make_folders(folder);
    mkdir(folder, 0755);
    if (syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 ||
        mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) != 0)
        return false;
    return chdir(jail->folder) == 0 || chdir("/") == 0;
}

static bool set_capabilities(uint32_t kept)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {
        {.permitted = kept, .effective = kept, .inheritable = kept}};

    return syscall(SYS_capset, &header, data) == 0;
}

static bool give_up_root(Level level)
{
    uint32_t kept = level == LEVEL_NOBODY ? 0 : 1u << CAP_DAC_READ_SEARCH;

    for (int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++) {
        if (i != CAP_DAC_READ_SEARCH || level == LEVEL_NOBODY)
            prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
    }
    prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    /* Not through libc, which would signal threads that do not exist in this child. */
    if (syscall(SYS_setgroups, 0, NULL) != 0)
        return false;
    if (level != LEVEL_READ_ROOT && (syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) != 0 ||
                                     syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) != 0))
        return false;
    if (!set_capabilities(kept))
        return false;
    if (level == LEVEL_READ_NOBODY)
        return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0) == 0;
    /* Without user namespaces in the kernel, dropping privileges suffices. */
    if (level == LEVEL_NOBODY && unshare(CLONE_NEWUSER) == 0)
        return set_capabilities(0);
    return true;
}

static int enter(const FlJail *jail, Level level)
{
    if (!enter_namespaces(jail))
        return STAGE_NAMESPACES;
    if (!change_root(jail))
        return STAGE_ROOT;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (jail->root ? !give_up_root(level) : !set_capabilities(0))
        return STAGE_RIGHTS;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &jail->filter, 0, 0) != 0)
        return STAGE_RIGHTS;
    return STAGE_DONE;
}

void fl_jail_enter(const FlJail *jail)
{
    if (enter(jail, jail->level) != STAGE_DONE)
        _exit(126);
}

/* The trial: whether a child can enter the jail and then open the files. */
static int try_level(const FlJail *jail, Level level)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        int stage = enter(jail, level);

        for (guint i = 0; stage == STAGE_DONE && i < jail->shown->len; i++) {
            const Shown *shown = &g_array_index(jail->shown, Shown, i);

            if (shown->file && open(shown->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) < 0)
                stage = STAGE_FILES;
        }
        for (guint i = 0; stage == STAGE_DONE && i < jail->tried->len; i++) {
            int fd = open(jail->tried->pdata[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK);

            if (fd < 0)
                stage = STAGE_FILES;
            else
                close(fd);
        }
        _exit(stage);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : STAGES;
}

bool fl_jail_prepare(FlJail *jail, GError **error)
{
    static const char *const why[STAGES + 1] = {
        [STAGE_NAMESPACES] = "the kernel permits no namespaces",
        [STAGE_ROOT] = "the kernel permits no changes of mounts in a namespace (Linux 5.12)",
        [STAGE_RIGHTS] = "it cannot drop its privileges",
        [STAGE_FILES] = "the image is not readable in it",
        [STAGES] = "it cannot be tested",
    };
    unsigned levels = jail->root ? LEVELS : 1;
    int stage = STAGE_RIGHTS;

    if (disabled)
        return fl_fail(error, "it is disabled");
    if (jail->conflict)
        return fl_fail(error, "a path leads through a symbolic link and ..");
    snprintf(jail->uid_map, sizeof jail->uid_map, "%d %d 1", NOBODY, (int)geteuid());
    snprintf(jail->gid_map, sizeof jail->gid_map, "%d %d 1", NOBODY, (int)getegid());
    if (jail->filter.len == 0 && !fl_syscalls_program(&jail->filter))
        return fl_fail(error, "there is no system call filter (libseccomp)");
    for (unsigned i = 0; i < levels; i++) {
        jail->level = (Level)i;
        stage = try_level(jail, jail->level);
        if (stage != STAGE_FILES)
            break;
    }
    return stage == STAGE_DONE || fl_fail(error, "%s", why[stage]);
}
