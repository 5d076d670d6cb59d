/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/client.h"

#include "mount/control.h"
#include "qemu/json.h"
#include "util/deadline.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STATUS_FILE ".fleecefs/status.json"
/* A daemon that is well answers at once; one that has been told to end may have a VM to put in
 * order. */
#define ANSWER_SECONDS 5
#define END_SECONDS    120
#define SILENT                                                                                     \
    "%s: its daemon does not answer within %d s: is it stopped (kill -CONT), or does the machine " \
    "hang? To give it up: fusermount3 -uz"
#define DEAD "%s is a mount whose daemon has died: fusermount3 -u %s"

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
        return fl_fail(error,
                       "mount point %s is not a folder; the source comes first: fleecefs SOURCE "
                       "MOUNTPOINT",
                       mountpoint);
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

/* What a child of ours has found out. */
typedef struct {
    int error; /* errno; 0: none */
    FlControlMessage message;
} Reply;

typedef struct {
    pid_t pid;
    int fd;
} Child;

/*
 * Runs FUNCTION in a child: whoever asks a daemon that is stopped waits in the kernel, where no
 * time-out reaches him, and possibly no signal. The child's end of the pipe is FUNCTION's to write
 * to. FD is -1 on failure.
 */
static Child ask_by_child(void (*function)(const char *path, void *opaque, int fd),
                          const char *path, void *opaque)
{
    Child child = {.fd = -1};
    int fds[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null < 0 || pipe2(fds, O_CLOEXEC) < 0)
        return child;
    child.pid = fork();
    if (child.pid == 0) {
        /* Whoever waits for the end of our output must not wait for the child. */
        for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
            dup2(null, fd);
        function(path, opaque, fds[1]);
        _exit(0);
    }
    close(null);
    close(fds[1]);
    if (child.pid > 0)
        child.fd = fds[0];
    else
        close(fds[0]);
    return child;
}

/* Not waited for: it may be stuck in the kernel. */
static void leave_child(const Child *child)
{
    if (child->fd < 0)
        return;
    close(child->fd);
    kill(child->pid, SIGKILL);
}

static void write_all(int fd, const void *buf, size_t length)
{
    const char *p = buf;
    ssize_t n;

    while (length > 0 && ((n = write(fd, p, length)) > 0 || errno == EINTR)) {
        p += MAX(n, 0);
        length -= (size_t)MAX(n, 0);
    }
}

static void read_status(const char *path, void *opaque, int out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), failed = fd < 0 ? errno : 0;
    char buf[4096];
    ssize_t n;

    write_all(out, &failed, sizeof failed);
    while (fd >= 0 && (n = read(fd, buf, sizeof buf)) > 0)
        write_all(out, buf, (size_t)n);
}

/* All that CHILD writes until it ends; NULL if that takes too long. */
static GByteArray *receive(Child child, gint64 deadline)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    char buf[4096];
    ssize_t n;

    for (;;) {
        struct pollfd p = {.fd = child.fd, .events = POLLIN};
        int ready = child.fd < 0 ? 0 : poll(&p, 1, fl_deadline_poll(deadline));

        if (ready < 0 && errno == EINTR)
            continue;
        n = ready > 0 ? read(child.fd, buf, sizeof buf) : -1;
        if (n > 0) {
            g_byte_array_append(bytes, (guint8 *)buf, (guint)n);
            continue;
        }
        leave_child(&child);
        return n == 0 ? g_steal_pointer(&bytes) : NULL;
    }
}

int fl_client_ask(const char *mountpoint, char **text)
{
    g_autofree char *path = g_build_filename(mountpoint, STATUS_FILE, NULL);
    g_autoptr(GByteArray) bytes =
        receive(ask_by_child(read_status, path, NULL), fl_deadline_in(ANSWER_SECONDS));
    int failed = 0;

    if (bytes == NULL || bytes->len < sizeof failed)
        return ETIMEDOUT;
    memcpy(&failed, bytes->data, sizeof failed);
    if (failed == 0)
        *text = g_strndup((char *)bytes->data + sizeof failed, bytes->len - sizeof failed);
    return failed;
}

void fl_client_complain(const char *mountpoint, int failed)
{
    if (failed == ETIMEDOUT)
        g_critical(SILENT, mountpoint, ANSWER_SECONDS);
    else if (failed == ENOTCONN)
        g_critical(DEAD, mountpoint, mountpoint);
    else
        g_critical("%s is not a fleecefs mount that answers: %s", mountpoint, g_strerror(failed));
}

char *fl_client_ask_loudly(const char *mountpoint)
{
    char *text = NULL;
    int failed = fl_client_ask(mountpoint, &text);

    if (failed != 0)
        fl_client_complain(mountpoint, failed);
    return text;
}

typedef struct {
    bool commit, force;
} Command;

static void send_command(const char *path, void *opaque, int out)
{
    const Command *command = opaque;
    Reply reply = {.message = {.force = command->force}};
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 ||
        ioctl(fd, command->commit ? FL_CONTROL_COMMIT : FL_CONTROL_ABORT, &reply.message) < 0)
        reply.error = errno;
    /* An open file would keep the mount, and so the daemon. */
    if (fd >= 0)
        close(fd);
    write_all(out, &reply, sizeof reply);
}

/* Waits for what CHILD has to say, for as long as the daemon answers to others. */
static bool await_reply(const char *mountpoint, Child child, Reply *reply)
{
    struct pollfd p = {.fd = child.fd, .events = POLLIN};
    g_autoptr(GByteArray) bytes = NULL;

    while (poll(&p, 1, ANSWER_SECONDS * 1000) == 0) {
        g_autofree char *text = fl_client_ask_loudly(mountpoint);
        if (text == NULL && poll(&p, 1, 0) == 0) {
            leave_child(&child);
            return false;
        }
    }
    bytes = receive(child, fl_deadline_in(ANSWER_SECONDS));
    if (bytes == NULL || bytes->len != sizeof *reply) {
        g_critical(SILENT, mountpoint, ANSWER_SECONDS);
        return false;
    }
    memcpy(reply, bytes->data, sizeof *reply);
    return true;
}

/* A descriptor of the daemon's process, or -1: its number means nothing in another PID namespace
 * than its own. */
static int open_daemon(JsonObject *status)
{
    gint64 pid = fl_json_int(status, "pid");
    struct stat st;

    if (pid <= 0 || stat("/proc/self/ns/pid", &st) != 0 ||
        fl_json_int(status, "pid_namespace") != (gint64)st.st_ino)
        return -1;
    return (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
}

/* The daemon ends when all is done. Where it cannot be watched, its mount ends a little before. */
static void wait_for_end(int daemon, const char *path)
{
    struct pollfd p = {.fd = daemon, .events = POLLIN};

    if (daemon >= 0)
        poll(&p, 1, END_SECONDS * 1000);
    for (unsigned i = 0; daemon < 0 && i < END_SECONDS * 20 && access(path, F_OK) == 0; i++)
        g_usleep(G_USEC_PER_SEC / 20);
}

int fl_client_end(const char *mountpoint, bool commit, bool force)
{
    g_autofree char *path = g_build_filename(mountpoint, STATUS_FILE, NULL);
    g_autofree char *text = fl_client_ask_loudly(mountpoint);
    g_autoptr(JsonObject) status = text != NULL ? fl_json_parse(text, strlen(text), NULL) : NULL;
    Command command = {.commit = commit, .force = force};
    Reply reply;
    int daemon;

    if (text == NULL)
        return FL_ERROR_FAILED;
    daemon = open_daemon(status);
    if (!await_reply(mountpoint, ask_by_child(send_command, path, &command), &reply)) {
        reply.message.status = FL_ERROR_FAILED;
    } else if (reply.error != 0) {
        g_critical("%s: %s", mountpoint, g_strerror(reply.error));
        reply.message.status = FL_ERROR_FAILED;
    } else {
        if (reply.message.text[0] != '\0')
            g_critical("%s: %s", mountpoint, reply.message.text);
        /* Unless it was refused. */
        if (!commit || reply.message.status != FL_ERROR_FAILED)
            wait_for_end(daemon, path);
    }
    if (daemon >= 0)
        close(daemon);
    return reply.message.status;
}
