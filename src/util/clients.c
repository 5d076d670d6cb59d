/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/clients.h"

#include "util/deadline.h"
#include "util/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Upper limit of the descriptors of this process to examine. */
#define FDS_MAX 65536

/* NBD's proto.md: client flags, fixed newstyle, and NBD_OPT_ABORT. */
static const char goodbye[] = "\0\0\0\1IHAVEOPT\0\0\0\2\0\0\0";

bool fl_unix_leave_nbd(int fd, unsigned timeout)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout * 1000;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    char ignored[4096];
    ssize_t got = -1;

    if (write(fd, goodbye, sizeof goodbye) != sizeof goodbye || shutdown(fd, SHUT_WR) != 0)
        return false;
    while (got != 0 && fl_deadline_left(end) > 0) {
        if (poll(&wait, 1, fl_deadline_poll(end)) < 0 && errno != EINTR)
            return false;
        got = read(fd, ignored, sizeof ignored);
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return false;
    }
    return got == 0;
}

int fl_clients_open(const char *path, unsigned timeout)
{
    char name[64];
    struct ucred peer = {.pid = 0};
    socklen_t length = sizeof peer;
    int list = -1, fd = fl_unix_connect(path);

    if (fd < 0)
        return -1;
    /* The pid is 0 for a process in a PID namespace that is not visible here. */
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.pid > 0) {
        g_snprintf(name, sizeof name, "/proc/%d/net/unix", (int)peer.pid);
        list = open(name, O_RDONLY | O_CLOEXEC);
    }
    fl_unix_leave_nbd(fd, timeout);
    close(fd);
    return list;
}

static char *read_list(int list)
{
    g_autoptr(GString) text = g_string_new(NULL);
    char buffer[16384];
    ssize_t got;

    if (lseek(list, 0, SEEK_SET) != 0)
        return NULL;
    while ((got = read(list, buffer, sizeof buffer)) > 0)
        g_string_append_len(text, buffer, got);
    return got == 0 ? g_string_free(g_steal_pointer(&text), FALSE) : NULL;
}

int fl_clients_own(const char *path)
{
    long fds = MIN(sysconf(_SC_OPEN_MAX), FDS_MAX);
    int count = 0;

    for (int fd = 0; fd < fds; fd++) {
        struct sockaddr_un peer = {.sun_family = AF_UNSPEC};
        socklen_t length = sizeof peer - 1; /* keeps the terminating NUL */

        count += getpeername(fd, (struct sockaddr *)&peer, &length) == 0 &&
                 peer.sun_family == AF_UNIX && g_str_equal(peer.sun_path, path);
    }
    return count;
}

int fl_clients_count(int list, const char *path)
{
    enum { LISTENS = 0x10000 }; /* __SO_ACCEPTCON of the kernel */
    g_autofree char *text = list >= 0 ? read_list(list) : NULL;
    g_auto(GStrv) lines = text != NULL ? g_strsplit(text, "\n", -1) : NULL;
    bool found = false;
    int count = 0;

    /* Format: proc(5). An accepted connection has the path of the listening socket. */
    for (char **line = lines; line != NULL && *line != NULL; line++) {
        unsigned flags;
        int at = 0;

        if (sscanf(*line, "%*[^:]: %*x %*x %x %*x %*x %*u %n", &flags, &at) != 1 || at == 0 ||
            !g_str_equal(*line + at, path))
            continue;
        found = found || (flags & LISTENS) != 0;
        count += (flags & LISTENS) == 0;
    }
    return found ? MAX(count - fl_clients_own(path), 0) : -1;
}
