/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files that are written to while they are watched. */
#include "source/file-sizes.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *make_file(int *fd)
{
    char *path = NULL;

    *fd = g_file_open_tmp("fleecefs-sizes-XXXXXX", &path, NULL);
    g_assert_cmpint(*fd, >=, 0);
    g_assert_cmpint(ftruncate(*fd, 1000), ==, 0);
    return path;
}

/* Sets the modification time of FD; at once after a write the clock might show the same. */
static void set_time(int fd, time_t seconds)
{
    const struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = seconds}};

    g_assert_cmpint(futimens(fd, times), ==, 0);
}

static void test_shrunk(void)
{
    int one, two;
    g_autofree char *first = make_file(&one), *second = make_file(&two);
    g_autofree char *fault = NULL, *any = NULL;
    FlFileSizes *sizes = fl_file_sizes_new();

    fl_file_sizes_add(sizes, &one, first);
    fl_file_sizes_add_fd(sizes, &two, second, two);
    g_assert_cmpint(ftruncate(two, 999), ==, 0);
    g_assert_null(fl_file_sizes_fault(sizes, &one));
    fault = fl_file_sizes_fault(sizes, &two);
    g_assert_nonnull(strstr(fault, "it has 999 bytes, and had 1000"));
    any = fl_file_sizes_fault(sizes, NULL);
    g_assert_cmpstr(any, ==, fault);
    fl_file_sizes_free(sizes);
    g_unlink(first);
    g_unlink(second);
    close(one);
    close(two);
}

/* What was cut off reads as zeros, although the size is the same. */
static void test_grown_again(void)
{
    int fd;
    g_autofree char *path = make_file(&fd), *fault = NULL;
    FlFileSizes *sizes = fl_file_sizes_new();

    set_time(fd, 1);
    fl_file_sizes_add(sizes, &fd, path);
    g_assert_cmpint(ftruncate(fd, 0), ==, 0);
    g_assert_cmpint(ftruncate(fd, 1000), ==, 0);
    fault = fl_file_sizes_fault(sizes, &fd);
    g_assert_nonnull(strstr(fault, "was changed while it was mounted"));
    /* It stays so if the time is set back. */
    set_time(fd, 1);
    g_free(fault);
    fault = fl_file_sizes_fault(sizes, NULL);
    g_assert_nonnull(fault);
    fl_file_sizes_free(sizes);
    g_unlink(path);
    close(fd);
}

/* Reads, links and other names leave the contents as they are. */
static void test_not_written(void)
{
    int fd;
    g_autofree char *path = make_file(&fd), *link_path = g_strconcat(path, ".link", NULL);
    const struct timespec times[] = {{.tv_sec = 5}, {.tv_nsec = UTIME_OMIT}};
    FlFileSizes *sizes = fl_file_sizes_new();

    set_time(fd, 1);
    fl_file_sizes_add(sizes, &fd, path);
    g_assert_cmpint(futimens(fd, times), ==, 0);
    g_assert_cmpint(fchmod(fd, 0400), ==, 0);
    g_assert_cmpint(link(path, link_path), ==, 0);
    g_assert_null(fl_file_sizes_fault(sizes, &fd));
    g_assert_cmpint(g_rename(link_path, path), ==, 0);
    g_assert_cmpint(g_unlink(link_path), ==, 0);
    g_assert_null(fl_file_sizes_fault(sizes, &fd));
    g_assert_true(fl_file_sizes_is_at(sizes, &fd, path));
    fl_file_sizes_free(sizes);
    g_unlink(path);
    close(fd);
}

static void test_replaced(void)
{
    int fd, other;
    g_autofree char *path = make_file(&fd), *new_path = make_file(&other);
    FlFileSizes *sizes = fl_file_sizes_new();

    fl_file_sizes_add(sizes, &fd, path);
    g_assert_true(fl_file_sizes_is_at(sizes, &fd, path));
    g_assert_true(fl_file_sizes_is_at(sizes, &other, "/nowhere/x"));
    g_assert_cmpint(g_rename(new_path, path), ==, 0);
    g_assert_false(fl_file_sizes_is_at(sizes, &fd, path));
    g_unlink(path);
    g_assert_false(fl_file_sizes_is_at(sizes, &fd, path));
    fl_file_sizes_free(sizes);
    close(fd);
    close(other);
}

/* A shrunken file stays faulty after it is no longer watched, or has grown again. */
static void test_removed(void)
{
    int fd;
    g_autofree char *path = make_file(&fd), *fault = NULL;
    FlFileSizes *sizes = fl_file_sizes_new();

    fl_file_sizes_add(sizes, &fd, path);
    fl_file_sizes_remove(sizes, &fd);
    g_assert_cmpint(ftruncate(fd, 500), ==, 0);
    g_assert_null(fl_file_sizes_fault(sizes, &fd));
    fl_file_sizes_add(sizes, &fd, path);
    g_assert_cmpint(ftruncate(fd, 400), ==, 0);
    fl_file_sizes_remove(sizes, &fd);
    g_assert_cmpint(ftruncate(fd, 1000), ==, 0);
    fl_file_sizes_add(sizes, &fd, path);
    fault = fl_file_sizes_fault(sizes, &fd);
    g_assert_nonnull(strstr(fault, "it has 400 bytes, and had 500"));
    fl_file_sizes_free(sizes);
    g_unlink(path);
    close(fd);
}

/* Warns once, when it is added. */
static void test_cannot_be_watched(void)
{
    FlFileSizes *sizes = fl_file_sizes_new();

    g_test_expect_message(G_LOG_DOMAIN, G_LOG_LEVEL_WARNING, "/nowhere/x cannot be watched*");
    fl_file_sizes_add(sizes, sizes, "/nowhere/x");
    g_test_assert_expected_messages();
    fl_file_sizes_add(sizes, sizes, "/dev/null");
    g_assert_null(fl_file_sizes_fault(sizes, NULL));
    g_assert_null(fl_file_sizes_fault(sizes, sizes));
    fl_file_sizes_free(sizes);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/sizes/shrunk", test_shrunk);
    g_test_add_func("/sizes/grown-again", test_grown_again);
    g_test_add_func("/sizes/not-written", test_not_written);
    g_test_add_func("/sizes/replaced", test_replaced);
    g_test_add_func("/sizes/removed", test_removed);
    g_test_add_func("/sizes/cannot-be-watched", test_cannot_be_watched);
    return g_test_run();
}
