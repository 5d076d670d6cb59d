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
#include <sys/wait.h>
#include <unistd.h>

#define STATUS_FILE ".fleecefs/status.json"
/* A working daemon answers at once; one that is ending may have to clean up its VM. */
#define ANSWER_SECONDS 5
#define END_SECONDS    120
/* Limit of a status in bytes, far more than that of the largest mount. */
#define ANSWER_MAX (64u << 20)
/* Mounts to ask at the same time. */
#define ASKED_MAX 64
/* Milliseconds to wait for a killed child, which may be stuck in the kernel. */
#define KILLED_MS 100
#define SILENT                                                                                     \
    "%s: its daemon does not answer within %d s: it may be stopped (kill -CONT), or the machine "  \
    "may hang; to discard the mount: fusermount3 -uz"
#define DEAD "%s is a mount whose daemon has died: fusermount3 -u %s"

bool fl_mountpoint_check(const char *mountpoint, GError **error)
{
    g_autofree char *status = g_build_filename(mountpoint, STATUS_FILE, NULL), *text = NULL;
    struct stat st;
    struct dirent *entry;
    DIR *dir;
    bool empty = true;
    int failed = fl_client_ask(mountpoint, &text);

    if (failed == ETIMEDOUT)
        return fl_fail(error, SILENT, mountpoint, ANSWER_SECONDS);
    if (failed == ENOTCONN)
        return fl_fail(error, DEAD, mountpoint, mountpoint);
    /* Not asking it ourselves, because it may be a mount whose daemon is stopped. */
    if (failed < 0)
        return fl_fail(error, "cannot start a process: %s" FL_LIMITS, g_strerror(-failed));
    if (stat(mountpoint, &st) != 0)
        return fl_fail(error, "mount point %s: %s%s", mountpoint, g_strerror(errno),
                       errno == ENOENT ? "; create the folder first" : "");
    if (!S_ISDIR(st.st_mode))
        return fl_fail(
            error,
            "mount point %s is not a folder; give the source first: fleecefs SOURCE MOUNTPOINT",
            mountpoint);
    /* fusermount3 would refuse it, with its own error message. */
    if (access(mountpoint, W_OK) != 0 && errno == EACCES)
        return fl_fail(error, "mount point %s: no write permission; choose another", mountpoint);
    if (access(status, F_OK) == 0)
        return fl_fail(error, "%s is in use: fleecefs is already mounted there", mountpoint);
    dir = opendir(mountpoint);
    if (dir == NULL)
        return fl_fail(error, "mount point %s: %s", mountpoint, g_strerror(errno));
    while (empty && (entry = readdir(dir)) != NULL)
        empty = g_str_equal(entry->d_name, ".") || g_str_equal(entry->d_name, "..");
    closedir(dir);
    return empty || fl_fail(error, "mount point %s is not empty", mountpoint);
}

/* Result of a child. */
typedef struct {
    int error; /* errno; 0: none */
    FlControlMessage message;
} Reply;

typedef struct {
    pid_t pid;
    int fd;    /* -1: none */
    int error; /* why there is no child; errno, 0: none */
    GByteArray *bytes;
} Child;

/*
 * Runs FUNCTION in a child, because accesses to a mount whose daemon is stopped block in the
 * kernel, without a timeout and possibly uninterruptibly. FUNCTION writes to FD, the child's end of
 * a pipe. Returns a child with an FD of -1 on failure. Free with end_child().
 */
static Child ask_by_child(void (*function)(const char *path, void *opaque, int fd),
                          const char *path, void *opaque)
{
    Child child = {.fd = -1, .bytes = g_byte_array_new()};
    int fds[2] = {-1, -1}, null = open("/dev/null", O_RDWR | O_CLOEXEC);

    child.pid = null >= 0 && pipe2(fds, O_CLOEXEC) == 0 ? fork() : -1;
    if (child.pid == 0) {
        /* A reader of our output must get end of file without waiting for the child. */
        for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
            dup2(null, fd);
        function(path, opaque, fds[1]);
        _exit(0);
    }
    child.error = child.pid < 0 ? errno : 0;
    if (child.pid > 0)
        child.fd = g_steal_fd(&fds[0]);
    for (int i = 0; i < 2; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    if (null >= 0)
        close(null);
    return child;
}

/* Does not wait for a child that is stuck in the kernel. */
static void end_child(Child *child)
{
    struct pollfd p = {.events = POLLIN};

    g_byte_array_unref(child->bytes);
    if (child->fd < 0)
        return;
    close(child->fd);
    kill(child->pid, SIGKILL);
    p.fd = (int)syscall(SYS_pidfd_open, child->pid, 0);
    if (p.fd >= 0) {
        poll(&p, 1, KILLED_MS);
        close(p.fd);
    }
    waitpid(child->pid, NULL, WNOHANG);
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

/* Takes what CHILD wrote. Returns false at its end; CHILD->error: what is wrong. */
static bool take(Child *child)
{
    char buf[4096];
    ssize_t n = read(child->fd, buf, sizeof buf);

    if (n > 0 && child->bytes->len < ANSWER_MAX) {
        g_byte_array_append(child->bytes, (guint8 *)buf, (guint)n);
        return true;
    }
    if (n < 0 && errno == EINTR)
        return true;
    if (n != 0)
        child->error = n > 0 ? EFBIG : errno;
    return false;
}

/* Receives all that the N CHILDREN, at most ASKED_MAX, write until they end. Those that have not
 * ended by DEADLINE get the error ETIMEDOUT. */
static void receive(Child *children, guint n, gint64 deadline)
{
    struct pollfd fds[ASKED_MAX];
    guint waiting = 0;

    for (guint i = 0; i < n; i++) {
        fds[i] = (struct pollfd){.fd = children[i].fd, .events = POLLIN};
        waiting += fds[i].fd >= 0;
    }
    while (waiting > 0 && fl_deadline_left(deadline) > 0) {
        poll(fds, n, fl_deadline_poll(deadline));
        waiting = 0;
        for (guint i = 0; i < n; i++) {
            if (fds[i].fd >= 0 && fds[i].revents != 0 && !take(&children[i]))
                fds[i].fd = -1;
            waiting += fds[i].fd >= 0;
        }
    }
    for (guint i = 0; i < n; i++) {
        if (fds[i].fd >= 0)
            children[i].error = ETIMEDOUT;
    }
}

/* Takes the result of read_status(), and ends the child. */
static int take_status(Child *child, char **text)
{
    const GByteArray *bytes = child->bytes;
    int failed = child->fd < 0 ? -child->error : child->error;

    if (failed == 0 && bytes->len < sizeof failed)
        failed = EIO;
    else if (failed == 0)
        memcpy(&failed, bytes->data, sizeof failed);
    if (failed == 0)
        *text = g_strndup((char *)bytes->data + sizeof failed, bytes->len - sizeof failed);
    end_child(child);
    return failed;
}

void fl_client_ask_all(const char *const *mountpoints, guint n, char **texts, int *failed)
{
    Child children[ASKED_MAX];

    for (guint done = 0, count; done < n; done += count) {
        count = MIN(n - done, ASKED_MAX);
        for (guint i = 0; i < count; i++) {
            g_autofree char *path = g_build_filename(mountpoints[done + i], STATUS_FILE, NULL);
            children[i] = ask_by_child(read_status, path, NULL);
        }
        receive(children, count, fl_deadline_in(ANSWER_SECONDS));
        for (guint i = 0; i < count; i++)
            failed[done + i] = take_status(&children[i], &texts[done + i]);
    }
}

int fl_client_ask(const char *mountpoint, char **text)
{
    int failed;

    fl_client_ask_all(&mountpoint, 1, text, &failed);
    return failed;
}

void fl_client_complain(const char *mountpoint, int failed)
{
    if (failed < 0)
        g_critical("%s: cannot ask its daemon: %s%s", mountpoint, g_strerror(-failed),
                   failed == -EAGAIN ? FL_LIMITS : "");
    else if (failed == ETIMEDOUT)
        g_critical(SILENT, mountpoint, ANSWER_SECONDS);
    else if (failed == ENOTCONN)
        g_critical(DEAD, mountpoint, mountpoint);
    else if (failed == ENOENT || failed == ENOTDIR)
        g_critical("%s is not a fleecefs mount; fleecefs --list shows all mounts", mountpoint);
    else if (failed == EACCES || failed == EPERM)
        g_critical("%s: no permission to access it; if it is a mount of another user, run this as "
                   "that user",
                   mountpoint);
    else
        g_critical("%s is not a responding fleecefs mount: %s", mountpoint, g_strerror(failed));
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
    /* An open file would keep the mount, and with it the daemon, alive. */
    if (fd >= 0)
        close(fd);
    write_all(out, &reply, sizeof reply);
}

static void send_rate(const char *path, void *rate, int out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int failed = fd < 0 || ioctl(fd, FL_CONTROL_RATE, rate) < 0 ? errno : 0;

    write_all(out, &failed, sizeof failed);
}

int fl_client_set_rate(const char *mountpoint, uint64_t rate)
{
    g_autofree char *path = g_build_filename(mountpoint, STATUS_FILE, NULL);
    Child child = ask_by_child(send_rate, path, &rate);
    char *text = NULL;
    int failed;

    receive(&child, 1, fl_deadline_in(ANSWER_SECONDS));
    failed = take_status(&child, &text);
    g_free(text);
    if (failed == 0)
        return 0;
    fl_client_complain(mountpoint, failed);
    return FL_ERROR_FAILED;
}

/* Waits for the reply of CHILD as long as the daemon answers other requests. */
static bool await_reply(const char *mountpoint, Child *child, Reply *reply)
{
    struct pollfd p = {.fd = child->fd, .events = POLLIN};

    while (child->fd >= 0 && poll(&p, 1, ANSWER_SECONDS * 1000) == 0) {
        g_autofree char *text = fl_client_ask_loudly(mountpoint);
        if (text == NULL && poll(&p, 1, 0) == 0)
            return false;
    }
    receive(child, 1, fl_deadline_in(ANSWER_SECONDS));
    if (child->error != 0 || child->bytes->len != sizeof *reply) {
        fl_client_complain(mountpoint, child->fd < 0 ? -child->error : ETIMEDOUT);
        return false;
    }
    memcpy(reply, child->bytes->data, sizeof *reply);
    return true;
}

/* Returns a pidfd of the daemon, or -1: its pid is meaningless in other PID namespaces. */
static int open_daemon(JsonObject *status)
{
    gint64 pid = fl_json_int(status, "pid");
    struct stat st;

    if (pid <= 0 || stat("/proc/self/ns/pid", &st) != 0 ||
        fl_json_int(status, "pid_namespace") != (gint64)st.st_ino)
        return -1;
    return (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
}

/* Whether the daemon has ended or, without a pidfd, its mount is gone, slightly earlier. Waits a
 * moment for it. */
static bool ends(int daemon, const char *mountpoint)
{
    struct pollfd p = {.fd = daemon, .events = POLLIN};
    g_autofree char *text = NULL;
    int failed;

    if (daemon >= 0)
        return poll(&p, 1, ANSWER_SECONDS * 1000) > 0;
    g_usleep(G_USEC_PER_SEC / 20);
    failed = fl_client_ask(mountpoint, &text);
    return failed > 0 && failed != ETIMEDOUT;
}

static void wait_for_end(int daemon, const char *mountpoint)
{
    gint64 deadline = fl_deadline_in(END_SECONDS);

    while (!ends(daemon, mountpoint)) {
        if (fl_deadline_left(deadline) > 0)
            continue;
        g_warning("%s: its daemon has not ended within %d s", mountpoint, END_SECONDS);
        break;
    }
}

int fl_client_end(const char *mountpoint, bool commit, bool force)
{
    g_autofree char *path = g_build_filename(mountpoint, STATUS_FILE, NULL);
    g_autofree char *text = fl_client_ask_loudly(mountpoint);
    g_autoptr(JsonObject) status = text != NULL ? fl_json_parse(text, strlen(text), NULL) : NULL;
    Command command = {.commit = commit, .force = force};
    Reply reply;
    Child child;
    int daemon;

    if (text == NULL)
        return FL_ERROR_FAILED;
    daemon = open_daemon(status);
    child = ask_by_child(send_command, path, &command);
    if (!await_reply(mountpoint, &child, &reply)) {
        reply.message.status = FL_ERROR_FAILED;
    } else if (reply.error != 0) {
        g_critical("%s: %s", mountpoint, g_strerror(reply.error));
        reply.message.status = FL_ERROR_FAILED;
    } else {
        if (reply.message.text[0] != '\0')
            g_critical("%s: %s", mountpoint, reply.message.text);
        /* The daemon stays if it refused the commit. */
        if (!commit || reply.message.status != FL_ERROR_FAILED)
            wait_for_end(daemon, mountpoint);
    }
    end_child(&child);
    if (daemon >= 0)
        close(daemon);
    return reply.message.status;
}
