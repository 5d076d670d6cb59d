/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The jail of QEMU's programs: this program, run in it, tries what must be forbidden. */
#include "util/jail.h"

#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *self;

static void assert_fails(long result)
{
    g_assert_cmpint(result, ==, -1);
    g_assert_true(errno == EPERM || errno == EACCES || errno == ENOSYS || errno == ENOENT ||
                  errno == EROFS);
}

/* Runs in the jail, which shows FILE, but not the files beside it. */
static int probe(const char *file)
{
    static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_VSOCK};
    static const char *const hidden[] = {"/etc/passwd", "/etc/shadow", "/proc/self", "/proc/1",
                                         "/root",       "/home",       "/run",       "/var",
                                         "/sys",        "/dev/fuse",   "/dev/mem"};
    g_autofree char *folder = g_path_get_dirname(file);
    g_autofree char *neighbour = g_build_filename(folder, "neighbour", NULL);
    g_autofree char *made = g_build_filename(folder, "made", NULL);
    char byte;
    int fd = open(file, O_RDONLY);

    g_assert_cmpint(read(fd, &byte, 1), ==, 1);
    g_assert_cmpint(geteuid(), !=, 0);
    assert_fails(open(file, O_WRONLY));
    assert_fails(open(neighbour, O_RDONLY));
    assert_fails(open(made, O_WRONLY | O_CREAT, 0600));
    assert_fails(open("/usr/made", O_WRONLY | O_CREAT, 0600));
    assert_fails(chmod(file, 04777));
    assert_fails(fchmod(fd, 04777));
    assert_fails(unlink(file));
    for (unsigned i = 0; i < G_N_ELEMENTS(hidden); i++)
        assert_fails(open(hidden[i], O_RDONLY));
    for (unsigned i = 0; i < G_N_ELEMENTS(families); i++)
        assert_fails(socket(families[i], SOCK_STREAM, 0));
    assert_fails(kill(getppid(), 0));
    assert_fails(kill(1, 0));
    assert_fails(fork());
    assert_fails(mount("none", "/usr", "tmpfs", 0, NULL));
    assert_fails(umount2("/usr", MNT_DETACH));
    assert_fails(unshare(CLONE_NEWUSER));
    assert_fails(ptrace(PTRACE_ATTACH, getppid(), NULL, NULL));
    assert_fails(setuid(0));
    assert_fails(syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, O_RDONLY));
    assert_fails(syscall(SYS_io_uring_setup, 4, NULL));
    assert_fails(syscall(SYS_bpf, 0, NULL, 0));
    return 0;
}

/* MODE: of the file, which belongs to the user who runs the test. */
static G_GNUC_UNUSED void test_program(gconstpointer mode)
{
    g_autofree char *folder = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    g_autofree char *file = g_build_filename(folder, "file", NULL);
    g_autofree char *neighbour = g_build_filename(folder, "neighbour", NULL);
    g_autoptr(FlJail) jail = fl_jail_new("qemu-img");
    g_autoptr(GError) error = NULL;
    int status;
    pid_t child;

    g_assert_true(g_file_set_contents(file, "image", -1, NULL));
    g_assert_true(g_file_set_contents(neighbour, "secret", -1, NULL));
    g_assert_no_errno(g_chmod(folder, 0755));
    g_assert_no_errno(g_chmod(neighbour, 0644));
    g_assert_no_errno(g_chmod(file, GPOINTER_TO_INT(mode)));
    fl_jail_add_file(jail, file);
    fl_jail_add_file(jail, self);
    if (!fl_jail_prepare(jail, &error)) {
        g_test_skip(error->message);
    } else {
        child = fork();
        if (child == 0) {
            fl_jail_enter(jail);
            execl(self, self, "--probe", file, NULL);
            _exit(125);
        }
        g_assert_cmpint(waitpid(child, &status, 0), ==, child);
        g_assert_cmpint(status, ==, 0);
    }
    g_unlink(file);
    g_unlink(neighbour);
    g_rmdir(folder);
}

/* "link/../file" is a different file if the link is not resolved. */
static void test_names(void)
{
    g_autofree char *folder = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    g_autofree char *link = g_build_filename(folder, "link", NULL);
    g_autofree char *file = g_build_filename(folder, "link", "..", "bin", "sh", NULL);
    g_autoptr(FlJail) jail = fl_jail_new("qemu-img");
    g_autoptr(GError) error = NULL;

    g_assert_no_errno(symlink("/usr/lib", link));
    fl_jail_add_file(jail, file);
    g_assert_false(fl_jail_prepare(jail, &error));
    g_assert_nonnull(strstr(error->message, "symbolic link"));
    g_unlink(link);
    g_rmdir(folder);
}

int main(int argc, char **argv)
{
    g_autofree char *path = g_canonicalize_filename(argv[0], NULL);

    if (argc == 3 && g_str_equal(argv[1], "--probe"))
        return probe(argv[2]);
    self = path;
    /* As in a hardened service. */
    umask(077);
    g_test_init(&argc, &argv, NULL);
#ifndef SANITIZED
    g_test_add_data_func("/jail/readable", GINT_TO_POINTER(0644), test_program);
    g_test_add_data_func("/jail/private", GINT_TO_POINTER(0600), test_program);
#endif
    g_test_add_func("/jail/names", test_names);
    return g_test_run();
}
