/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/notify.h"

#include <glib.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int fl_notify_open(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_autofree char *name = g_strdup(g_getenv("NOTIFY_SOCKET"));
    gsize length = name != NULL ? strlen(name) : 0;
    int fd;

    g_unsetenv("NOTIFY_SOCKET");
    if (length < 2 || (name[0] != '/' && name[0] != '@') || length >= sizeof address.sun_path)
        return -1;
    memcpy(address.sun_path, name, length);
    /* The abstract namespace, unix(7). */
    if (name[0] == '@')
        address.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address,
                           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)) == 0)
        return fd;
    g_warning("cannot notify the service manager: %s: %m", name);
    if (fd >= 0)
        close(fd);
    return -1;
}

void fl_notify(int fd, const char *state)
{
    if (fd >= 0 && send(fd, state, strlen(state), MSG_NOSIGNAL) < 0)
        g_debug("could not send %s to the service manager: %m", state);
}
