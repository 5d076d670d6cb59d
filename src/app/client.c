/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/client.h"

#include "mount/control.h"
#include "app/status-page.h"
#include "qemu/json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STATUS_FILE ".fleecefs/status.json"
#define DEAD        "%s is a mount whose daemon has died: fusermount3 -u %s"

/* Whether it is a mount whose daemon was killed. What stat(2) tells of one may still come from the
 * kernel's cache; to open it never does. */
static bool is_dead(const char *mountpoint)
{
    int fd = open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool dead = fd < 0 && errno == ENOTCONN;

    if (fd >= 0)
        close(fd);
    return dead;
}

bool fl_mountpoint_check(const char *mountpoint, GError **error)
{
    g_autofree char *status = g_build_filename(mountpoint, STATUS_FILE, NULL);
    struct stat st;
    struct dirent *entry;
    DIR *dir;
    bool empty = true;

    if (is_dead(mountpoint))
        return fl_fail(error, DEAD, mountpoint, mountpoint);
    if (stat(mountpoint, &st) != 0)
        return fl_fail(error, "mount point %s: %s%s", mountpoint, g_strerror(errno),
                       errno == ENOENT ? "; create the folder first" : "");
    if (!S_ISDIR(st.st_mode))
        return fl_fail(error, "mount point %s is not a folder", mountpoint);
    /* fusermount3 would refuse it, in a line of its own. */
    if (access(mountpoint, W_OK) != 0 && errno == EACCES)
        return fl_fail(error, "mount point %s: you have to be able to write to it; choose another",
                       mountpoint);
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
    g_autoptr(JsonObject) status = NULL;
    gsize length;

    if (!g_file_get_contents(path, &text, &length, NULL))
        return 0;
    status = fl_json_parse(text, length, NULL);
    return (pid_t)fl_json_int(status, "pid");
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
        if (fd < 0 && is_dead(mountpoint))
            g_critical(DEAD, mountpoint, mountpoint);
        else
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

/* Of the terminal that the page goes to; a page for a file or a pipe is as wide as one usually is.
 */
static FlStatusPageOptions page_options(const char *mountpoint)
{
    FlStatusPageOptions options = {.mountpoint = mountpoint, .columns = 80};
    struct winsize size;

    if (isatty(STDOUT_FILENO)) {
        options.wrap = true;
        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
            options.columns = size.ws_col;
    }
    return options;
}

int fl_client_status(const char *mountpoint, bool json)
{
    g_autofree char *path = g_build_filename(mountpoint, STATUS_FILE, NULL);
    g_autofree char *text = NULL;
    g_autoptr(JsonObject) status = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *page = NULL;
    FlStatusPageOptions options;
    gsize length;

    if (!g_file_get_contents(path, &text, &length, &error)) {
        if (is_dead(mountpoint))
            g_critical(DEAD, mountpoint, mountpoint);
        else
            g_critical("%s is not a fleecefs mount that answers: %s", mountpoint, error->message);
        return FL_ERROR_FAILED;
    }
    if (json) {
        fputs(text, stdout);
        return 0;
    }
    status = fl_json_parse(text, length, &error);
    if (status == NULL) {
        g_critical("%s cannot be read: %s", path, error->message);
        return FL_ERROR_FAILED;
    }
    options = page_options(mountpoint);
    page = fl_status_page_make(status, &options);
    fputs(page, stdout);
    return 0;
}
