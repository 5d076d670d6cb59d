/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LD_PRELOAD module: host name lookups never end while the file $STALL exists. */
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <unistd.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found)
{
    int (*next)(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found);
    const char *file = getenv("STALL");

    while (file != NULL && access(file, F_OK) == 0)
        sleep(1000);
    *(void **)&next = dlsym(RTLD_NEXT, "getaddrinfo");
    return next(node, service, hints, found);
}
