/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/mount-clock.h"

#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <sys/file.h>
#include <unistd.h>

static gint64 host_second(void)
{
    return g_get_real_time() / G_USEC_PER_SEC;
}

static void set_file(const char *path, gint64 second)
{
    g_autofree char *text =
        g_strdup_printf("?\n\n0123 9\n0123456789abcdef %" G_GINT64_FORMAT "\n0", second);

    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static guint count_lines(const char *path)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    return g_strv_length(lines) - 1;
}

static void test_seconds_differ(void)
{
    g_autofree char *directory = g_dir_make_tmp("fleecefs-unit.XXXXXX", NULL);
    g_autofree char *path = g_build_filename(directory, "mounts-clock", NULL);
    gint64 begin = host_second(), last = 0;
    int fd;

    g_setenv("FLEECEFS_STATE_DIR", directory, TRUE);
    for (unsigned i = 0; i < 20; i++) {
        struct timespec time = fl_mount_clock_next("nbd://a");

        g_assert_cmpint(time.tv_sec, >, last);
        g_assert_cmpint(time.tv_sec, >=, begin);
        g_assert_cmpint(time.tv_sec, <=, host_second() + i);
        last = time.tv_sec;
    }
    /* Another source has its own seconds. */
    g_assert_cmpint(fl_mount_clock_next("nbd://b").tv_sec, <=, host_second());

    /* Lines that are not needed any more, or not valid, are dropped; so is a time far in the
     * future, from before the clock was set back. */
    set_file(path, host_second() + 1000);
    fl_mount_clock_next("nbd://a");
    g_assert_cmpuint(count_lines(path), ==, 2);
    set_file(path, host_second() + 1000000);
    fl_mount_clock_next("nbd://a");
    g_assert_cmpuint(count_lines(path), ==, 1);

    /* Another process that keeps the lock does not block a mount. */
    fd = open(path, O_RDWR | O_CLOEXEC);
    g_assert_no_errno(flock(fd, LOCK_EX));
    g_assert_cmpint(fl_mount_clock_next("nbd://a").tv_sec, <=, host_second());
    close(fd);

    g_unlink(path);
    g_assert_cmpint(g_rmdir(directory), ==, 0);
}

static void test_no_directory(void)
{
    gint64 begin = host_second();

    g_setenv("FLEECEFS_STATE_DIR", "/proc/nothing/can/be/here", TRUE);
    for (unsigned i = 0; i < 2; i++) {
        struct timespec time = fl_mount_clock_next("nbd://a");

        g_assert_cmpint(time.tv_sec, >=, begin);
        g_assert_cmpint(time.tv_sec, <=, host_second());
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/mount-clock/seconds-differ", test_seconds_differ);
    g_test_add_func("/mount-clock/no-directory", test_no_directory);
    return g_test_run();
}
