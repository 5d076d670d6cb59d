/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/sandbox.h"

#include "config.h"
#include "landlock.h"
#include "syscalls.h"
#include "threads.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIT(capability) (UINT64_C(1) << (capability))
#define OVERRIDE        (BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH))

/* LeakSanitizer stops all threads with ptrace(2). */
#ifdef SANITIZED
#define ALWAYS_KEPT BIT(CAP_SYS_PTRACE)
#else
#define ALWAYS_KEPT UINT64_C(0)
#endif

struct FlSandbox {
    int ruleset; /* of Landlock; -1: none */
    /* /proc/self: Landlock's rule for it is effective only while its inode is in use. */
    int proc;
    uint64_t capabilities; /* to keep */
    GPtrArray *sockets;    /* of char *, NULL-terminated */
    GArray *groups;        /* of pid_t: process groups that may be sent signals */
    GPtrArray *missing;    /* of char * */
    bool any_socket;
};

/* What any program may need: libc loads NSS and iconv modules on demand. */
static const char *const readable[] = {"/proc/self", "/usr", "/lib", "/lib64", "/dev/urandom"};
/* Host names and certificates, including targets of links in /etc and other name services. No
 * folder that holds secrets: /etc itself has shadow(5). */
static const char *const for_names[] = {
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/networks",
    "/etc/passwd",
    "/etc/group",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust",
    "/etc/crypto-policies",
    "/etc/gnutls",
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

typedef struct {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
} Capabilities;

FlSandbox *fl_sandbox_new(void)
{
    FlSandbox *sandbox = g_new0(FlSandbox, 1);

#ifdef SANITIZED
    sandbox->ruleset = -1;
#else
    sandbox->ruleset = fl_landlock_new();
#endif
    sandbox->proc = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    sandbox->capabilities = ALWAYS_KEPT;
    sandbox->sockets = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(sandbox->sockets, NULL);
    sandbox->groups = g_array_new(FALSE, FALSE, sizeof(pid_t));
    sandbox->missing = g_ptr_array_new_with_free_func(g_free);
    for (size_t i = 0; i < G_N_ELEMENTS(readable); i++)
        fl_sandbox_allow(sandbox, readable[i], FL_SANDBOX_READ);
    fl_sandbox_allow(sandbox, "/dev/null", FL_SANDBOX_READ | FL_SANDBOX_WRITE);
    return sandbox;
}

void fl_sandbox_free(FlSandbox *sandbox)
{
    if (sandbox == NULL)
        return;
    if (sandbox->ruleset >= 0)
        close(sandbox->ruleset);
    if (sandbox->proc >= 0)
        close(sandbox->proc);
    g_ptr_array_unref(sandbox->sockets);
    g_array_unref(sandbox->groups);
    g_ptr_array_unref(sandbox->missing);
    g_free(sandbox);
}

static bool get_capabilities(Capabilities *caps)
{
    *caps = (Capabilities){.header.version = _LINUX_CAPABILITY_VERSION_3};
    return syscall(SYS_capget, &caps->header, caps->data) == 0;
}

/* Whether ACCESS to PATH needs the capabilities that override file modes: tries it without them.
 * Affects the calling thread only. */
static bool takes_override(const char *path, FlSandboxAccess access)
{
    struct stat st;
    Capabilities caps, without;
    int mode = (access & FL_SANDBOX_READ) != 0 ? R_OK : 0;
    bool possible;

    if (stat(path, &st) != 0 || !get_capabilities(&caps) ||
        (caps.data[0].effective & OVERRIDE) == 0)
        return false;
    if ((access & ~(unsigned)FL_SANDBOX_READ) != 0)
        mode |= W_OK;
    if (S_ISDIR(st.st_mode))
        mode |= X_OK;
    without = caps;
    without.data[0].effective &= ~(uint32_t)OVERRIDE;
    if (syscall(SYS_capset, &without.header, without.data) != 0)
        return true;
    possible = faccessat(AT_FDCWD, path, mode, AT_EACCESS) == 0;
    syscall(SYS_capset, &caps.header, caps.data);
    return !possible;
}

void fl_sandbox_allow(FlSandbox *sandbox, const char *path, FlSandboxAccess access)
{
    if (path == NULL)
        return;
    if (sandbox->ruleset >= 0)
        fl_landlock_allow(sandbox->ruleset, path, access);
    if (takes_override(path, access))
        sandbox->capabilities |= OVERRIDE;
}

void fl_sandbox_allow_names(FlSandbox *sandbox)
{
    for (size_t i = 0; i < G_N_ELEMENTS(for_names); i++) {
        if (sandbox->ruleset >= 0)
            fl_landlock_allow(sandbox->ruleset, for_names[i], FL_SANDBOX_READ);
    }
}

void fl_sandbox_allow_socket(FlSandbox *sandbox, const char *path)
{
    g_ptr_array_insert(sandbox->sockets, (gint)sandbox->sockets->len - 1, g_strdup(path));
}

void fl_sandbox_allow_sockets(FlSandbox *sandbox)
{
    sandbox->any_socket = true;
}

void fl_sandbox_allow_signals(FlSandbox *sandbox, pid_t pid)
{
    g_array_append_val(sandbox->groups, pid);
    /* The processes may run as another user. */
    sandbox->capabilities |= BIT(CAP_KILL);
}

void fl_sandbox_miss(FlSandbox *sandbox, const char *what)
{
    g_ptr_array_add(sandbox->missing, g_strdup(what));
}

char **fl_sandbox_sockets(FlSandbox *sandbox)
{
    return (char **)sandbox->sockets->pdata;
}

static void give_up_capabilities(uint64_t kept)
{
    Capabilities caps;

    if (!get_capabilities(&caps))
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(caps.data); i++) {
        caps.data[i].permitted &= (uint32_t)(kept >> (32 * i));
        caps.data[i].effective &= (uint32_t)(kept >> (32 * i));
        caps.data[i].inheritable = 0;
    }
    syscall(SYS_capset, &caps.header, caps.data);
}

/* Runs in every thread, in a signal handler: system calls only. */
static void close_around_thread(void *opaque)
{
    const FlSandbox *sandbox = opaque;

    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (sandbox->ruleset >= 0)
        fl_landlock_restrict(sandbox->ruleset);
    give_up_capabilities(sandbox->capabilities);
}

char **fl_sandbox_close(FlSandbox *sandbox)
{
    GPtrArray *missing = g_steal_pointer(&sandbox->missing);

    sandbox->missing = g_ptr_array_new();
    if (!fl_each_thread(close_around_thread, sandbox))
        g_ptr_array_add(missing,
                        g_strdup("a thread could not be reached and keeps its privileges"));
#ifndef SANITIZED
    if (sandbox->ruleset < 0)
        g_ptr_array_add(missing, g_strdup("the kernel has no Landlock (Linux 5.13, \"lsm=\"): all "
                                          "files of its user are accessible"));
    if (!fl_syscalls_filter(&(FlSyscalls){.unix_sockets = sandbox->any_socket,
                                          .groups = (const pid_t *)(void *)sandbox->groups->data,
                                          .n_groups = sandbox->groups->len}))
        g_ptr_array_add(missing, g_strdup("there is no system call filter (libseccomp)"));
#endif
    if (sandbox->ruleset >= 0)
        close(sandbox->ruleset);
    sandbox->ruleset = -1;
    /* Stays open: see struct FlSandbox. */
    sandbox->proc = -1;
    g_ptr_array_add(missing, NULL);
    return (char **)g_ptr_array_free(missing, FALSE);
}
