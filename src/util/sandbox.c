/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/sandbox.h"

#include "config.h"
#include "landlock.h"
#include "syscalls.h"
#include "threads.h"

#include <glib.h>
#include <linux/capability.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIT(capability) (UINT64_C(1) << (capability))

/* To reach sockets of QEMU's user and remove files of his; to end a server that has another user.
 */
#define NEEDED (BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_FOWNER) | BIT(CAP_KILL))

/* LeakSanitizer stops all threads to look at them. */
#ifdef SANITIZED
#define KEPT (NEEDED | BIT(CAP_SYS_PTRACE))
#else
#define KEPT NEEDED
#endif

struct FlSandbox {
    int ruleset; /* of Landlock; -1: none */
};

/* What any program may come to need: C libraries load parts of themselves late. */
static const char *const readable[] = {"/proc", "/usr", "/lib", "/lib64", "/dev/urandom"};
/* resolv.conf and certificates, also where links in /etc lead; hosts(5) by other services. */
static const char *const for_names[] = {
    "/etc",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
    "/var/run/nscd",
    "/var/db/nscd",
    "/var/cache/nscd",
    "/var/lib/sss",
    "/var/lib/ca-certificates",
};

FlSandbox *fl_sandbox_new(void)
{
    FlSandbox *sandbox = g_new0(FlSandbox, 1);

#ifdef SANITIZED
    sandbox->ruleset = -1;
#else
    sandbox->ruleset = fl_landlock_new();
#endif
    for (size_t i = 0; i < G_N_ELEMENTS(readable); i++)
        fl_sandbox_allow(sandbox, readable[i], FL_SANDBOX_READ);
    fl_sandbox_allow(sandbox, "/dev/null", FL_SANDBOX_READ | FL_SANDBOX_WRITE);
    return sandbox;
}

void fl_sandbox_allow(FlSandbox *sandbox, const char *path, FlSandboxAccess access)
{
    if (sandbox->ruleset >= 0 && path != NULL)
        fl_landlock_allow(sandbox->ruleset, path, access);
}

void fl_sandbox_allow_names(FlSandbox *sandbox)
{
    for (size_t i = 0; i < G_N_ELEMENTS(for_names); i++)
        fl_sandbox_allow(sandbox, for_names[i], FL_SANDBOX_READ);
}

typedef struct {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
} Capabilities;

static void give_up_capabilities(void)
{
    Capabilities caps = {.header.version = _LINUX_CAPABILITY_VERSION_3};

    if (syscall(SYS_capget, &caps.header, caps.data) != 0)
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(caps.data); i++) {
        uint32_t kept = (uint32_t)(KEPT >> (32 * i));

        caps.data[i].permitted &= kept;
        caps.data[i].effective &= kept;
        caps.data[i].inheritable = 0;
    }
    syscall(SYS_capset, &caps.header, caps.data);
}

/* In every thread, by a signal handler: system calls only. */
static void close_around_thread(void *opaque)
{
    const FlSandbox *sandbox = opaque;

    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (sandbox->ruleset >= 0)
        fl_landlock_restrict(sandbox->ruleset);
    give_up_capabilities();
}

void fl_sandbox_close(FlSandbox *sandbox)
{
    if (!fl_each_thread(close_around_thread, sandbox))
        g_debug("a thread could not be reached, and keeps its rights");
#ifndef SANITIZED
    if (!fl_syscalls_filter())
        g_debug("no filter of system calls");
#endif
    if (sandbox->ruleset >= 0)
        close(sandbox->ruleset);
    g_free(sandbox);
}
