/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/keeper.h"

#include "util/deadline.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_SECONDS 10
#define SOCKETS_MAX      255

/* Requests. CONNECT is followed by the number of a socket. */
enum { UNMOUNT = 'u', REMOVE_PIDFILE = 'p', CONNECT = 'c' };

/* State of the other process; all of it is allocated before the fork. */
typedef struct {
    int channel;
    const FlMountpoint *mountpoint;
    char *fusermount;
    int pid_folder; /* O_PATH; -1: no pid file */
    char *pid_name, *pid_text;
    struct sockaddr_un *addresses;
    unsigned n_addresses;
    GArray *nodes; /* of int: sockets opened for it (O_PATH) */
    GArray *kept;  /* of int: descriptors that it needs, in ascending order */
} Life;

struct FlKeeper {
    GMutex lock; /* one request at a time */
    int channel;
    char **sockets;
};

/* Used by fl_unix_connect(); atomic. */
static FlKeeper *the_keeper;

/* The other process: forked from a process with threads, so system calls only. */

static void close_range_of(int first, int last)
{
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0)
        return;
    for (int fd = first; fd <= MIN(last, (int)sysconf(_SC_OPEN_MAX)); fd++)
        close(fd);
}

static void close_others(const GArray *kept)
{
    int next = 0;

    for (unsigned i = 0; i < kept->len; i++) {
        int fd = g_array_index(kept, int, i);

        close_range_of(next, fd - 1);
        next = fd + 1;
    }
    close_range_of(next, G_MAXINT);
}

/* fusermount3 is setuid root. It unmounts by path: PATH is where our mount is now. */
static bool run_fusermount(const Life *life, const char *path)
{
    const char *const argv[] = {"fusermount3", "-u", "-q", "-z", "--", path, NULL};
    pid_t child = fork();
    int status;

    if (child == 0) {
        int null = open("/dev/null", O_RDWR);

        for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
            dup2(null, fd);
        execv(life->fusermount, (char *const *)argv);
        _exit(127);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void append_decimal(char *text, unsigned n)
{
    char digits[16];
    size_t count = 0;

    text += strlen(text);
    do
        digits[count++] = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    while (count > 0)
        *text++ = digits[--count];
    *text = '\0';
}

static bool do_unmount(const Life *life)
{
    char link[32] = "/proc/self/fd/", path[PATH_MAX];
    int fd = fl_mountpoint_open(life->mountpoint);
    ssize_t n;
    bool ok;

    if (fd < 0)
        return false;
    append_decimal(link, (unsigned)fd);
    /* Through the descriptor: unmounts exactly the mount that was checked. */
    ok = umount2(link, MNT_DETACH) == 0;
    n = ok ? -1 : readlink(link, path, sizeof path - 1);
    close(fd);
    if (n <= 0)
        return ok;
    path[n] = '\0';
    return run_fusermount(life, path);
}

static void do_remove_pidfile(const Life *life)
{
    char text[32] = "";
    int fd = life->pid_folder >= 0
                 ? openat(life->pid_folder, life->pid_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
                 : -1;

    if (fd < 0)
        return;
    if (read(fd, text, sizeof text - 1) > 0 && strcmp(text, life->pid_text) == 0)
        unlinkat(life->pid_folder, life->pid_name, 0);
    close(fd);
}

static int do_connect(const Life *life, unsigned char number)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (number < life->n_addresses && connect(fd, (const struct sockaddr *)&life->addresses[number],
                                              sizeof life->addresses[number]) == 0)
        return fd;
    number = number < life->n_addresses ? (unsigned char)errno : EACCES;
    close(fd);
    return -number;
}

/* Sends one answer: a byte (0 or an errno) and, unless FD is -1, a descriptor, which is closed. */
static void answer(const Life *life, unsigned char byte, int fd)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        struct cmsghdr *header;

        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    while (sendmsg(life->channel, &message, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
    if (fd >= 0)
        close(fd);
}

_Noreturn static void live(const Life *life)
{
    unsigned char word[2];
    sigset_t all;
    ssize_t n;

    /* Signals such as ^C are for the daemon, which then sends requests. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    setsid();
    prctl(PR_SET_NAME, "fleecefs-keeper");
    /* Do not keep the working directory or other open files busy. */
    if (chdir("/") != 0)
        _exit(1);
    close_others(life->kept);
    for (;;) {
        int fd = -1;

        n = read(life->channel, word, sizeof word);
        if (n < 0 && errno == EINTR)
            continue;
        if (n != sizeof word) {
            /* Release everything before the channel, whose end the daemon waits for. */
            close_range_of(0, life->channel - 1);
            close_range_of(life->channel + 1, G_MAXINT);
            _exit(0);
        }
        switch (word[0]) {
        case UNMOUNT:
            answer(life, do_unmount(life) ? 0 : EBUSY, -1);
            break;
        case REMOVE_PIDFILE:
            do_remove_pidfile(life);
            answer(life, 0, -1);
            break;
        case CONNECT:
            fd = do_connect(life, word[1]);
            answer(life, (unsigned char)(fd < 0 ? -fd : 0), fd);
            break;
        default:
            _exit(1);
        }
    }
}

/* Daemon side */

static int compare_ints(gconstpointer a, gconstpointer b)
{
    return *(const int *)a - *(const int *)b;
}

static void keep(Life *life, int fd)
{
    g_array_append_val(life->kept, fd);
}

static void add_address(Life *life, const char *path)
{
    struct sockaddr_un *address = &life->addresses[life->n_addresses++];

    address->sun_family = AF_UNIX;
    if (g_str_has_prefix(path, "/proc/self/fd/")) {
        keep(life, atoi(path + strlen("/proc/self/fd/")));
        strcpy(address->sun_path, path);
    } else if (strlen(path) < sizeof address->sun_path) {
        strcpy(address->sun_path, path);
    } else {
        /* Too long for sun_path: use the socket that exists now. */
        int node = open(path, O_PATH | O_CLOEXEC);

        g_snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d", node);
        if (node >= 0) {
            keep(life, node);
            g_array_append_val(life->nodes, node);
        }
    }
}

static void prepare(Life *life, const FlKeeperSpec *spec, int channel)
{
    guint n = spec->sockets != NULL ? g_strv_length(spec->sockets) : 0;

    life->kept = g_array_new(FALSE, FALSE, sizeof(int));
    life->nodes = g_array_new(FALSE, FALSE, sizeof(int));
    life->channel = channel;
    life->mountpoint = spec->mountpoint;
    life->fusermount = g_find_program_in_path("fusermount3");
    if (life->fusermount == NULL)
        life->fusermount = g_strdup("fusermount3");
    life->pid_folder = -1;
    if (spec->pidfile != NULL) {
        g_autofree char *folder = g_path_get_dirname(spec->pidfile);

        life->pid_folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
        life->pid_name = g_path_get_basename(spec->pidfile);
        life->pid_text = g_strdup_printf("%d\n", getpid());
    }
    life->addresses = g_new0(struct sockaddr_un, MAX(n, 1));
    for (guint i = 0; i < MIN(n, SOCKETS_MAX); i++)
        add_address(life, spec->sockets[i]);
    keep(life, channel);
    keep(life, fl_mountpoint_folder(spec->mountpoint));
    if (life->pid_folder >= 0)
        keep(life, life->pid_folder);
    g_array_sort(life->kept, compare_ints);
}

static void clear_life(Life *life)
{
    close(life->channel);
    if (life->pid_folder >= 0)
        close(life->pid_folder);
    g_free(life->fusermount);
    g_free(life->pid_name);
    g_free(life->pid_text);
    g_free(life->addresses);
    for (guint i = 0; i < life->nodes->len; i++)
        close(g_array_index(life->nodes, int, i));
    g_array_unref(life->nodes);
    g_array_unref(life->kept);
}

FlKeeper *fl_keeper_start(const FlKeeperSpec *spec, GError **error)
{
    Life life = {0};
    FlKeeper *keeper;
    int pair[2], status = 0;
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        fl_fail(error, "cannot create a socket: %s", g_strerror(errno));
        return NULL;
    }
    prepare(&life, spec, pair[1]);
    child = fork();
    if (child == 0) {
        /* Fork twice: init reaps it. */
        child = fork();
        if (child == 0)
            live(&life);
        _exit(child < 0 ? errno : 0);
    }
    if (child < 0)
        status = errno;
    clear_life(&life);
    if (child > 0) {
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
        status = WEXITSTATUS(status);
    }
    if (status != 0) {
        fl_fail(error, "cannot start a process: %s" FL_LIMITS, g_strerror(status));
        close(pair[0]);
        return NULL;
    }
    keeper = g_new0(FlKeeper, 1);
    keeper->channel = pair[0];
    keeper->sockets = g_strdupv(spec->sockets);
    g_mutex_init(&keeper->lock);
    g_atomic_pointer_set(&the_keeper, keeper);
    return keeper;
}

/* Waits for the answer. Returns an errno, 0 on success. Called with the lock held. */
static int receive(FlKeeper *keeper, int *fd_out)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    unsigned char byte = EIO;
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    struct pollfd fd = {.fd = keeper->channel, .events = POLLIN};
    gint64 deadline = fl_deadline_in(PATIENCE_SECONDS);
    struct cmsghdr *header;
    int r;

    do
        r = poll(&fd, 1, fl_deadline_poll(deadline));
    while (r < 0 && errno == EINTR);
    if (r == 0)
        return ETIMEDOUT;
    if (recvmsg(keeper->channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) != 1)
        return EPIPE;
    header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_type == SCM_RIGHTS)
        memcpy(fd_out, CMSG_DATA(header), sizeof *fd_out);
    /* The kernel drops the descriptor if this process has too many. */
    return (message.msg_flags & MSG_CTRUNC) != 0 ? EMFILE : byte;
}

static int ask(FlKeeper *keeper, unsigned char what, unsigned char number, int *fd_out)
{
    unsigned char word[] = {what, number};
    int result;

    g_mutex_lock(&keeper->lock);
    result = send(keeper->channel, word, sizeof word, MSG_NOSIGNAL) == sizeof word
                 ? receive(keeper, fd_out)
                 : EPIPE;
    /* A late answer must not be taken for the answer to the next request. */
    if (result == ETIMEDOUT)
        shutdown(keeper->channel, SHUT_RDWR);
    g_mutex_unlock(&keeper->lock);
    return result;
}

bool fl_keeper_unmount(FlKeeper *keeper)
{
    return ask(keeper, UNMOUNT, 0, NULL) == 0;
}

void fl_keeper_remove_pidfile(FlKeeper *keeper)
{
    ask(keeper, REMOVE_PIDFILE, 0, NULL);
}

void fl_keeper_free(FlKeeper *keeper)
{
    struct pollfd fd = {.events = POLLIN};

    if (keeper == NULL)
        return;
    fd.fd = keeper->channel;
    g_atomic_pointer_compare_and_exchange(&the_keeper, keeper, NULL);
    shutdown(keeper->channel, SHUT_WR);
    while (poll(&fd, 1, PATIENCE_SECONDS * 1000) < 0 && errno == EINTR)
        ;
    close(keeper->channel);
    g_strfreev(keeper->sockets);
    g_mutex_clear(&keeper->lock);
    g_free(keeper);
}

static int connect_directly(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int node = open(path, O_PATH | O_CLOEXEC), fd = -1, saved;

    if (node < 0)
        return -1;
    /* Through the descriptor: some paths are too long for sun_path. */
    g_snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", node);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        saved = errno;
        close(fd);
        errno = saved;
        fd = -1;
    }
    saved = errno;
    close(node);
    errno = saved;
    return fd;
}

int fl_unix_connect(const char *path)
{
    FlKeeper *keeper = g_atomic_pointer_get(&the_keeper);
    int fd = -1;

    if (keeper == NULL)
        return connect_directly(path);
    for (guint i = 0; keeper->sockets != NULL && keeper->sockets[i] != NULL; i++) {
        if (i < SOCKETS_MAX && g_str_equal(keeper->sockets[i], path)) {
            errno = ask(keeper, CONNECT, (unsigned char)i, &fd);
            return errno == 0 ? fd : -1;
        }
    }
    errno = EACCES;
    return -1;
}
