/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/confine.h"

#include "config.h"
#include "landlock.h"
#include "syscalls.h"

#include <errno.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define NOBODY 65534

static bool become_nobody(void)
{
    return geteuid() != 0 || (setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
                              setresuid(NOBODY, NOBODY, NOBODY) == 0);
}

#ifndef SANITIZED
/* Without Landlock in the kernel, only the system call filter prevents opening files. */
static void close_files(void)
{
    int ruleset = fl_landlock_new();

    if (ruleset < 0)
        return;
    fl_landlock_restrict(ruleset);
    close(ruleset);
}
#endif

bool fl_confine(uint64_t memory, GError **error)
{
    struct rlimit none = {0}, space = {.rlim_cur = memory, .rlim_max = memory};

    if (!become_nobody())
        return fl_fail(error, "cannot become nobody: %s", g_strerror(errno));
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || setrlimit(RLIMIT_CORE, &none) != 0)
        return fl_fail(error, "cannot drop privileges: %s", g_strerror(errno));
#ifndef SANITIZED
    close_files();
    if (setrlimit(RLIMIT_AS, &space) != 0)
        return fl_fail(error, "cannot limit memory: %s", g_strerror(errno));
    if (!fl_syscalls_confine())
        return fl_fail(error, "no system call filter is available (libseccomp)");
#else
    (void)space;
#endif
    return true;
}
