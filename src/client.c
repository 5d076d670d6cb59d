/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client.h"

#include "mount/control.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <json-glib/json-glib.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STATUS_FILE ".fleecefs/status.json"

bool fl_mountpoint_check(const char *mountpoint, GError **error)
{
    g_autofree char *status = g_build_filename(mountpoint, STATUS_FILE, NULL);
    struct stat st;
    struct dirent *entry;
    DIR *dir;
    bool empty = true;

    if (stat(mountpoint, &st) != 0) {
        if (errno == ENOTCONN)
            return fl_fail(error, "%s is a mount whose daemon has died: fusermount3 -u %s",
                           mountpoint, mountpoint);
        return fl_fail(error, "mount point %s: %s%s", mountpoint, g_strerror(errno),
                       errno == ENOENT ? "; create the folder first" : "");
    }
    if (!S_ISDIR(st.st_mode))
        return fl_fail(error, "mount point %s is not a folder", mountpoint);
    if (access(status, F_OK) == 0)
        return fl_fail(error, "%s is in use: fleecefs is mounted there already", mountpoint);
    dir = opendir(mountpoint);
    if (dir == NULL)
        return fl_fail(error, "mount point %s: %s", mountpoint, g_strerror(errno));
    while (empty && (entry = readdir(dir)) != NULL)
        empty = g_str_equal(entry->d_name, ".") || g_str_equal(entry->d_name, "..");
    closedir(dir);
    return empty || fl_fail(error, "mount point %s is not empty", mountpoint);
}

/* The process id in the status of a mount; 0 if there is none. */
static pid_t read_pid(const char *path)
{
    g_autofree char *text = NULL;
    g_autoptr(JsonNode) root = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return 0;
    root = json_from_string(text, NULL);
    if (root == NULL || !JSON_NODE_HOLDS_OBJECT(root))
        return 0;
    return (pid_t)json_object_get_int_member(json_node_get_object(root), "pid");
}

int fl_client_end(const char *mountpoint, bool commit, bool force)
{
    g_autofree char *path = g_build_filename(mountpoint, STATUS_FILE, NULL);
    pid_t pid = read_pid(path);
    int daemon = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    FlControlMessage message = {.force = force};
    int r = -1, why;

    if (fd >= 0)
        r = ioctl(fd, commit ? FL_CONTROL_COMMIT : FL_CONTROL_ABORT, &message);
    why = errno;
    /* An open file would keep the mount, and so the daemon. */
    if (fd >= 0)
        close(fd);
    if (r < 0) {
        g_critical("%s: %s", mountpoint,
                   fd < 0 ? "not a fleecefs mount that answers" : g_strerror(why));
        message.status = FL_ERROR_FAILED;
    } else {
        if (message.text[0] != '\0')
            g_critical("%s: %s", mountpoint, message.text);
        /* Unless it was refused, the daemon ends: it is done when that is. */
        if ((!commit || message.status != FL_ERROR_FAILED) && daemon >= 0)
            poll(&(struct pollfd){.fd = daemon, .events = POLLIN}, 1, -1);
    }
    if (daemon >= 0)
        close(daemon);
    return message.status;
}

static void print_disk(JsonObject *disk)
{
    g_autofree char *size = g_format_size_full(
        (guint64)json_object_get_int_member(disk, "size"), G_FORMAT_SIZE_IEC_UNITS);
    g_autofree char *read = g_format_size_full(
        (guint64)json_object_get_int_member(disk, "bytes_read"), G_FORMAT_SIZE_IEC_UNITS);

    printf("%s: %s, %s read from %s in %" G_GINT64_FORMAT " requests, %" G_GINT64_FORMAT
           " errors, %" G_GINT64_FORMAT " connections\n",
           json_object_get_string_member(disk, "name"), size, read,
           json_object_get_string_member(disk, "source"),
           json_object_get_int_member(disk, "requests"), json_object_get_int_member(disk, "errors"),
           json_object_get_int_member(disk, "connections"));
    if (json_object_has_member(disk, "failure"))
        printf("  FAILED: %s\n", json_object_get_string_member(disk, "failure"));
}

int fl_client_status(const char *mountpoint, bool json)
{
    g_autofree char *path = g_build_filename(mountpoint, STATUS_FILE, NULL);
    g_autofree char *text = NULL;
    g_autoptr(JsonNode) root = NULL;
    g_autoptr(GError) error = NULL;
    JsonObject *status;
    JsonArray *exports;

    if (!g_file_get_contents(path, &text, NULL, &error)) {
        g_critical("%s is not a fleecefs mount that answers: %s", mountpoint, error->message);
        return FL_ERROR_FAILED;
    }
    if (json) {
        fputs(text, stdout);
        return 0;
    }
    root = json_from_string(text, &error);
    if (root == NULL || !JSON_NODE_HOLDS_OBJECT(root)) {
        g_critical("%s cannot be read: %s", path, error != NULL ? error->message : "no object");
        return FL_ERROR_FAILED;
    }
    status = json_node_get_object(root);
    printf("%s: fleecefs %s, process %" G_GINT64_FORMAT ", since %s\n", mountpoint,
           json_object_get_string_member(status, "version"),
           json_object_get_int_member(status, "pid"),
           json_object_get_string_member(status, "since"));
    exports = json_object_get_array_member(status, "exports");
    for (guint i = 0; i < json_array_get_length(exports); i++)
        print_disk(json_array_get_object_element(exports, i));
    return 0;
}
