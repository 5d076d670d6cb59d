/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/image/daemon.h"

#include "source/storage-daemon.h"

static bool check_installed(const char *path, GError **error)
{
    static const char *const programs[] = {"qemu-img", FL_STORAGE_DAEMON};

    for (size_t i = 0; i < G_N_ELEMENTS(programs); i++) {
        g_autofree char *found = g_find_program_in_path(programs[i]);
        if (found == NULL)
            return fl_fail(error,
                           "cannot open %s: %s is not installed, and QEMU is needed to read image "
                           "files (on Debian: qemu-utils and qemu-system-common)",
                           path, programs[i]);
    }
    return true;
}

/* Watches all files; call before the server opens them, which reports those that are missing. */
static void watch(const FlImageDaemon *daemon)
{
    for (guint i = 0; i < daemon->image->files->len; i++) {
        const char *file = daemon->image->files->pdata[i];

        if (g_file_test(file, G_FILE_TEST_EXISTS))
            fl_file_sizes_add(daemon->sizes, file, file);
    }
}

/* Whether the server has opened the files that are watched. */
static bool check_watched(const FlImageDaemon *daemon, GError **error)
{
    for (guint i = 0; i < daemon->image->files->len; i++) {
        const char *file = daemon->image->files->pdata[i];

        if (!fl_file_sizes_is_at(daemon->sizes, file, file))
            return fl_fail(error, "%s was replaced while it was opened; try again", file);
    }
    return true;
}

FlImageDaemon *fl_image_daemon_new(const char *path, const char *format, GError **error)
{
    g_autoptr(FlImageDaemon) daemon = g_new0(FlImageDaemon, 1);
    g_autoptr(FlJail) jail = NULL;
    g_autoptr(FlQmp) qmp = NULL;
    GError *failure = NULL;

    daemon->sizes = fl_file_sizes_new();
    if (!check_installed(path, error) ||
        (daemon->image = fl_image_probe(path, format, error)) == NULL)
        return NULL;
    watch(daemon);
    jail = fl_image_jail(daemon->image, FL_STORAGE_DAEMON);
    daemon->server = fl_storage_daemon_start(jail, &qmp, error);
    if (daemon->server == NULL)
        return NULL;
    if (!fl_image_export(daemon->image, qmp, &failure)) {
        fl_storage_daemon_explain(daemon->server, failure, error);
        return NULL;
    }
    fl_image_find_state(daemon->image);
    return check_watched(daemon, error) ? g_steal_pointer(&daemon) : NULL;
}

void fl_image_daemon_free(FlImageDaemon *daemon)
{
    if (daemon == NULL)
        return;
    fl_server_free(daemon->server);
    fl_image_free(daemon->image);
    fl_file_sizes_free(daemon->sizes);
    g_free(daemon);
}

char *fl_image_daemon_fault(const FlImageDaemon *daemon)
{
    return fl_file_sizes_fault(daemon->sizes, NULL);
}
