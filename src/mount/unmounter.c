/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "unmounter.h"

#include "util/deadline.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_SECONDS 10

struct FlUnmounter {
    int channel; /* at its end when the other process has ended */
};

static void close_from(int first)
{
    if (syscall(SYS_close_range, first, ~0u, 0) == 0)
        return;
    for (int fd = first; fd < (int)sysconf(_SC_OPEN_MAX); fd++)
        close(fd);
}

/* The life of the other process. It was forked from one with threads: system calls only. */
_Noreturn static void unmount_when_told(int channel, const char *fusermount, const char *mountpoint)
{
    const char *const argv[] = {"fusermount3", "-u", "-q", "-z", "--", mountpoint, NULL};
    sigset_t all;
    ssize_t n;
    char word;

    /* ^C and the like are for the daemon, which then says what is to be done. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    setsid();
    prctl(PR_SET_NAME, "fleecefs-umount");
    /* The folder that it was started in must not stay busy. MOUNTPOINT is absolute. */
    if (chdir("/") != 0)
        _exit(1);
    /* Without CLOEXEC, so that fusermount3 holds it until it is done. Nothing else is kept open:
     * the mount would not end with the daemon. */
    dup2(channel, STDIN_FILENO);
    close_from(STDIN_FILENO + 1);
    do
        n = read(STDIN_FILENO, &word, 1);
    while (n < 0 && errno == EINTR);
    if (n == 1 && umount2(mountpoint, MNT_DETACH) != 0)
        execv(fusermount, (char *const *)argv);
    _exit(0);
}

FlUnmounter *fl_unmounter_new(const char *mountpoint, GError **error)
{
    g_autofree char *fusermount = g_find_program_in_path("fusermount3");
    FlUnmounter *unmounter;
    int pair[2];
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        fl_fail(error, "cannot make a socket: %s", g_strerror(errno));
        return NULL;
    }
    child = fork();
    if (child == 0) {
        /* A child of nobody here, so that nobody need wait for it. */
        if (fork() == 0)
            unmount_when_told(pair[1], fusermount != NULL ? fusermount : "", mountpoint);
        _exit(0);
    }
    close(pair[1]);
    if (child < 0) {
        fl_fail(error, "cannot start a process: %s", g_strerror(errno));
        close(pair[0]);
        return NULL;
    }
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    unmounter = g_new0(FlUnmounter, 1);
    unmounter->channel = pair[0];
    return unmounter;
}

void fl_unmounter_run(FlUnmounter *unmounter)
{
    struct pollfd fd = {.fd = unmounter->channel, .events = POLLIN};
    gint64 deadline = g_get_monotonic_time() + PATIENCE_SECONDS * G_USEC_PER_SEC;
    int r;

    if (send(unmounter->channel, "", 1, MSG_NOSIGNAL) != 1)
        return;
    do
        r = poll(&fd, 1, fl_deadline_poll(deadline));
    while (r < 0 && errno == EINTR);
}

void fl_unmounter_free(FlUnmounter *unmounter)
{
    if (unmounter == NULL)
        return;
    close(unmounter->channel);
    g_free(unmounter);
}
