/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/background.h"

#include "util/log.h"
#include "util/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* The child writes one byte when it is ready. End of file: it has exited; returns its status. */
static int wait_for(pid_t child, int fd)
{
    char byte;
    ssize_t n;
    int status = 0;

    do
        n = read(fd, &byte, 1);
    while (n < 0 && errno == EINTR);
    if (n == 1)
        return 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : FL_ERROR_FAILED;
}

void fl_background_init(FlBackground *background)
{
    *background = (FlBackground){.notify = -1, .manager = fl_notify_open()};
}

bool fl_background_start(FlBackground *background, int *status, GError **error)
{
    pid_t parent = getpid(), child;
    int fds[2];

    *status = FL_ERROR_FAILED;
    if (!g_unix_open_pipe(fds, FD_CLOEXEC, error))
        return false;
    child = fork();
    if (child < 0) {
        close(fds[0]);
        close(fds[1]);
        return fl_fail(error, "cannot go to the background: %s" FL_LIMITS, g_strerror(errno));
    }
    if (child > 0) {
        close(fds[1]);
        *status = wait_for(child, fds[0]);
        close(fds[0]);
        return false;
    }
    close(fds[0]);
    background->notify = fds[1];
    /* Only a foreground process (-f) notifies the service manager. */
    if (background->manager >= 0)
        close(background->manager);
    background->manager = -1;
    /* Until the daemon is ready, ending the first process (or Ctrl-C) ends this one too. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        raise(SIGTERM);
    return true;
}

void fl_background_ready(FlBackground *background)
{
    int null;
    ssize_t n;

    if (background->notify < 0) {
        fl_notify(background->manager, "READY=1");
        return;
    }
    setsid();
    prctl(PR_SET_PDEATHSIG, 0);
    fl_log_to_syslog();
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        dup2(null, fd);
    if (null > STDERR_FILENO)
        close(null);
    do
        n = write(background->notify, "", 1);
    while (n < 0 && errno == EINTR);
    close(background->notify);
    background->notify = -1;
}

void fl_background_ending(FlBackground *background)
{
    fl_notify(background->manager, "STOPPING=1");
    if (background->manager >= 0)
        close(background->manager);
    background->manager = -1;
}
