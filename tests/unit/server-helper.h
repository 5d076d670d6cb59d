/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by tests of private servers: folders, shell commands, connections. */
#pragma once

#include "source/image/daemon.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <libnbd.h>
#include <string.h>
#include <sys/wait.h>

#define MIB (1 << 20)

/* Each test has a separate folder, which is its working directory. */
typedef struct {
    char *dir;
    guint descriptors;
} Fixture;

static inline void run(const char *command)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *out = NULL, *err = NULL;
    const char *argv[] = {"/bin/sh", "-euc", command, NULL};
    int status;

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &out, &err, &status,
                 &error);
    g_assert_no_error(error);
    if (status != 0)
        g_error("%s: %s%s", command, out, err);
}

static inline guint count_entries(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    guint n = 0;

    g_assert_nonnull(dir);
    while (g_dir_read_name(dir) != NULL)
        n++;
    return n;
}

static inline void set_up(Fixture *fixture, gconstpointer data)
{
    fixture->dir = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    g_assert_no_errno(g_chdir(fixture->dir));
    fixture->descriptors = count_entries("/proc/self/fd");
}

/* Checks that nothing is left: no descriptors, children, or sockets. */
static inline void tear_down(Fixture *fixture, gconstpointer data)
{
    g_autofree char *remove =
        g_strdup_printf("chmod -R u+rwX %s; rm -rf %s", fixture->dir, fixture->dir);

    g_assert_cmpint(waitpid(-1, NULL, WNOHANG), ==, -1);
    g_assert_cmpint(errno, ==, ECHILD);
    g_assert_cmpuint(count_entries("/proc/self/fd"), ==, fixture->descriptors);
    g_assert_cmpuint(count_entries(g_getenv("XDG_RUNTIME_DIR")), ==, 0);
    g_assert_no_errno(g_chdir("/"));
    run(remove);
    g_free(fixture->dir);
}

static inline void assert_error_has(const GError *error, const char *part)
{
    g_assert_nonnull(error);
    g_assert_null(strchr(error->message, '\n'));
    if (strstr(error->message, part) == NULL)
        g_error("'%s' is not in: %s", part, error->message);
    g_test_message("%s", error->message);
}

/* The descriptors above stderr that a live server shares with us are none; see test_inherited. */
static inline FlImageDaemon *serve(const char *path)
{
    g_autoptr(GError) error = NULL;
    FlImageDaemon *daemon = fl_image_daemon_new(path, NULL, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(count_entries(g_getenv("XDG_RUNTIME_DIR")), ==, 0);
    return daemon;
}

static inline struct nbd_handle *connect_to(const FlServer *server, const char *export,
                                            const char *const *contexts)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fl_server_socket(server));
    struct nbd_handle *nbd = nbd_create();

    nbd_set_export_name(nbd, export);
    for (; contexts != NULL && *contexts != NULL; contexts++)
        nbd_add_meta_context(nbd, *contexts);
    if (nbd_connect_unix(nbd, path) < 0)
        g_error("%s", nbd_get_error());
    return nbd;
}

static inline void assert_byte(struct nbd_handle *nbd, uint64_t offset, uint8_t expected)
{
    uint8_t sector[512]; /* some formats read no less */

    if (nbd_pread(nbd, sector, sizeof sector, offset & ~(uint64_t)511, 0) < 0)
        g_error("%s", nbd_get_error());
    g_assert_cmphex(sector[offset % 512], ==, expected);
}

static inline void assert_serves(const char *path, int64_t size, uint64_t offset, uint8_t byte)
{
    g_autoptr(FlImageDaemon) daemon = serve(path);
    struct nbd_handle *nbd = connect_to(daemon->server, daemon->image->info.name, NULL);

    g_assert_cmpint(nbd_get_size(nbd), ==, size);
    g_assert_cmpint(nbd_is_read_only(nbd), ==, 1);
    assert_byte(nbd, offset, byte);
    nbd_close(nbd);
}

static inline void assert_refused(const char *path, const char *part)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(fl_image_daemon_new(path, NULL, &error));
    assert_error_has(error, part);
    g_assert_true(error->domain == FL_ERROR);
}

typedef struct {
    const char *path;
    void (*test)(Fixture *fixture, gconstpointer data);
} Test;

/* Runs N tests; returns 77 if a program that they need is missing. */
static inline int run_tests(int argc, char **argv, const Test *tests, size_t n)
{
    static const char *const needed[] = {"qemu-storage-daemon", "qemu-img", "qemu-io", "nbdkit"};
    g_autofree char *base = NULL, *deep = NULL, *runtime = NULL;
    int result;

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(needed); i++) {
        g_autofree char *program = g_find_program_in_path(needed[i]);
        if (program == NULL)
            return 77;
    }

    /* Sockets go to a folder of our own, so that it shows if one stays; longer than sun_path. */
    base = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    deep = g_strnfill(120, 'r');
    runtime = g_build_filename(base, deep, NULL);
    g_assert_no_errno(g_mkdir(runtime, 0700));
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
    for (size_t i = 0; i < n; i++)
        g_test_add(tests[i].path, Fixture, NULL, set_up, tests[i].test, tear_down);
    result = g_test_run();
    g_rmdir(runtime);
    g_rmdir(base);
    return result;
}
