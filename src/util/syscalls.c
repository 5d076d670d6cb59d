/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "syscalls.h"

#include "config.h"

#ifdef HAVE_SECCOMP

#include <errno.h>
#include <glib.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* By name: libseccomp knows the numbers per architecture; names that it does not know are
 * skipped. */
static const char *const allowed[] = {
    /* Memory */
    "brk",
    "madvise",
    "membarrier",
    "memfd_create",
    "mincore",
    "mlock",
    "mmap",
    "mmap2",
    "mprotect",
    "mremap",
    "munlock",
    "munmap",
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
    /* Threads and time */
    "arch_prctl",
    "clock_getres",
    "clock_gettime",
    "clock_gettime64",
    "clock_nanosleep",
    "clock_nanosleep_time64",
    "exit",
    "exit_group",
    "futex",
    "futex_time64",
    "futex_waitv",
    "get_robust_list",
    "getcpu",
    "getitimer",
    "gettimeofday",
    "nanosleep",
    "prctl",
    "rseq",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "sched_getaffinity",
    "sched_getattr",
    "sched_getparam",
    "sched_getscheduler",
    "sched_yield",
    "set_robust_list",
    "set_thread_area",
    "set_tid_address",
    "setitimer",
    "time",
    "timer_create",
    "timer_delete",
    "timer_settime",
    "timer_settime64",
    "timerfd_create",
    "timerfd_gettime",
    "timerfd_settime",
    "timerfd_settime64",
    "times",
    /* Signals; kill(2) and tgkill(2) are below */
    "alarm",
    "pause",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "sigaltstack",
    "signalfd",
    "signalfd4",
    "sigreturn",
    "wait4",
    "waitid",
    "waitpid",
    /* Process attributes */
    "capget",
    "getegid",
    "getegid32",
    "geteuid",
    "geteuid32",
    "getgid",
    "getgid32",
    "getgroups",
    "getgroups32",
    "getpgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getpriority",
    "getrandom",
    "getresgid",
    "getresuid",
    "getrlimit",
    "getrusage",
    "getsid",
    "gettid",
    "getuid",
    "getuid32",
    "setsid",
    "sysinfo",
    "ugetrlimit",
    "umask",
    "uname",
    /* Descriptors */
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "epoll_create",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "eventfd",
    "eventfd2",
    "fcntl",
    "fcntl64",
    "inotify_add_watch",
    "inotify_init1",
    "inotify_rm_watch",
    "pipe",
    "pipe2",
    "poll",
    "ppoll",
    "ppoll_time64",
    "pread64",
    "preadv",
    "preadv2",
    "pselect6",
    "pselect6_time64",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "read",
    "readv",
    "select",
    "_newselect",
    "sendfile",
    "sendfile64",
    "splice",
    "tee",
    "vmsplice",
    "write",
    "writev",
    /* Files */
    "access",
    "chdir",
    "copy_file_range",
    "faccessat",
    "faccessat2",
    "fadvise64",
    "fadvise64_64",
    "fallocate",
    "fchdir",
    "fdatasync",
    "fgetxattr",
    "flock",
    "fstat",
    "fstat64",
    "fstatat64",
    "fstatfs",
    "fstatfs64",
    "fsync",
    "ftruncate",
    "ftruncate64",
    "getcwd",
    "getdents",
    "getdents64",
    "getxattr",
    "lgetxattr",
    "_llseek",
    "lseek",
    "lstat",
    "lstat64",
    "memfd_create",
    "mkdir",
    "mkdirat",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "readlink",
    "readlinkat",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "stat",
    "stat64",
    "statfs",
    "statfs64",
    "statx",
    "sync_file_range",
    "unlink",
    "unlinkat",
    /* Client sockets; no listen(2), accept(2) */
    "bind",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "recv",
    "recvfrom",
    "recvmmsg",
    "recvmmsg_time64",
    "recvmsg",
    "send",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
};

/* Address families: NBD servers, and netlink for getaddrinfo(3). */
static const int families[] = {AF_INET, AF_INET6, AF_VSOCK, AF_NETLINK};

/* No TIOCSTI, which injects input into the user's terminal, and no device ioctls. */
static const unsigned long requests[] = {FIONREAD,   FIONBIO,      FIOCLEX,     FIONCLEX,   TCGETS,
                                         TIOCGWINSZ, SIOCGIFINDEX, SIOCGIFNAME, SIOCGIFCONF};

typedef struct {
    scmp_filter_ctx filter;
    bool failed;
} Rules;

static void add(Rules *rules, int number)
{
    if (number != __NR_SCMP_ERROR && !rules->failed)
        rules->failed = seccomp_rule_add(rules->filter, SCMP_ACT_ALLOW, number, 0) != 0;
}

/* Compares only the low 32 bits of the argument: the upper half of the register is undefined. */
static void add_if(Rules *rules, int number, unsigned argument, unsigned value)
{
    struct scmp_arg_cmp compare = {
        .arg = argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = UINT32_MAX, .datum_b = value};

    if (!rules->failed)
        rules->failed =
            seccomp_rule_add_array(rules->filter, SCMP_ACT_ALLOW, number, 1, &compare) != 0;
}

static void add_all(Rules *rules, const FlSyscalls *syscalls)
{
    for (size_t i = 0; i < G_N_ELEMENTS(allowed); i++)
        add(rules, seccomp_syscall_resolve_name(allowed[i]));
    for (size_t i = 0; i < G_N_ELEMENTS(families); i++)
        add_if(rules, SCMP_SYS(socket), 0, (unsigned)families[i]);
    for (size_t i = 0; i < G_N_ELEMENTS(requests); i++)
        add_if(rules, SCMP_SYS(ioctl), 1, (unsigned)requests[i]);
    if (syscalls->unix_sockets) {
        add_if(rules, SCMP_SYS(socket), 0, AF_UNIX);
        add(rules, SCMP_SYS(socketpair));
    }
    /* Signals to this process, and to the servers it must end. */
    add_if(rules, SCMP_SYS(kill), 0, (unsigned)getpid());
    add_if(rules, SCMP_SYS(tgkill), 0, (unsigned)getpid());
    for (size_t i = 0; i < syscalls->n_groups; i++)
        add_if(rules, SCMP_SYS(kill), 0, (unsigned)-syscalls->groups[i]);
    add_if(rules, SCMP_SYS(prlimit64), 0, 0);
    add_if(rules, SCMP_SYS(sched_setattr), 0, 0);
}

/* Threads, but no processes. A filter cannot inspect the flags of clone3(2); C libraries fall back
 * to clone(2). */
static void add_threads(Rules *rules)
{
    if (!rules->failed)
        rules->failed =
            seccomp_rule_add(rules->filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD)) != 0;
}

/* Additional calls of QEMU's programs. */
static const char *const of_programs[] = {
    "accept", "accept4", "execve", "listen", "getxattr", "sched_setaffinity", "sched_setscheduler",
};
/* ioctls of files and block devices, which are opened read-only. */
static const unsigned long of_disks[] = {BLKGETSIZE64,  BLKGETSIZE, BLKSSZGET, BLKPBSZGET,
                                         BLKSECTGET,    BLKROGET,   BLKRAGET,  BLKFLSBUF,
                                         FS_IOC_FIEMAP, FIGETBSZ};

static bool export_program(scmp_filter_ctx filter, struct sock_fprog *program)
{
    int fd = memfd_create("filter", MFD_CLOEXEC);
    struct stat st;
    bool ok = fd >= 0 && seccomp_export_bpf(filter, fd) == 0 && fstat(fd, &st) == 0;

    if (ok) {
        program->filter = g_malloc((gsize)st.st_size);
        program->len = (unsigned short)((gsize)st.st_size / sizeof *program->filter);
        ok = pread(fd, program->filter, (size_t)st.st_size, 0) == st.st_size;
    }
    if (fd >= 0)
        close(fd);
    return ok;
}

bool fl_syscalls_program(struct sock_fprog *program)
{
    Rules rules = {.filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS))};

    if (rules.filter == NULL)
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(allowed); i++)
        add(&rules, seccomp_syscall_resolve_name(allowed[i]));
    for (size_t i = 0; i < G_N_ELEMENTS(of_programs); i++)
        add(&rules, seccomp_syscall_resolve_name(of_programs[i]));
    for (size_t i = 0; i < G_N_ELEMENTS(requests); i++)
        add_if(&rules, SCMP_SYS(ioctl), 1, (unsigned)requests[i]);
    for (size_t i = 0; i < G_N_ELEMENTS(of_disks); i++)
        add_if(&rules, SCMP_SYS(ioctl), 1, (unsigned)of_disks[i]);
    add_if(&rules, SCMP_SYS(prlimit64), 0, 0);
    add_if(&rules, SCMP_SYS(sched_setattr), 0, 0);
    add_threads(&rules);
    rules.failed = rules.failed || !export_program(rules.filter, program);
    seccomp_release(rules.filter);
    return !rules.failed;
}

bool fl_syscalls_filter(const FlSyscalls *syscalls)
{
    Rules rules = {.filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS))};

    if (rules.filter == NULL)
        return false;
    rules.failed = seccomp_attr_set(rules.filter, SCMP_FLTATR_CTL_TSYNC, 1) != 0;
    add_all(&rules, syscalls);
    add_threads(&rules);
    /* Performance: a binary tree of rules, and no Speculative Store Bypass mitigation, which older
     * kernels otherwise enable with seccomp. */
    seccomp_attr_set(rules.filter, SCMP_FLTATR_CTL_SSB, 1);
    seccomp_attr_set(rules.filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    rules.failed = rules.failed || seccomp_load(rules.filter) != 0;
    seccomp_release(rules.filter);
    return !rules.failed;
}

/* Allowed by fl_syscalls_confine(). */
static const char *const of_computing[] = {
    "_llseek",
    "arch_prctl",
    "brk",
    "clock_gettime",
    "clock_gettime64",
    "close",
    "exit",
    "exit_group",
    "fstat",
    "fstat64",
    "futex",
    "futex_time64",
    "getpid",
    "getrandom",
    "gettid",
    "gettimeofday",
    "lseek",
    "madvise",
    "mmap",
    "mmap2",
    "mprotect",
    "mremap",
    "munmap",
    "pread64",
    "prctl",
    "read",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rseq",
    "sched_yield",
    "set_robust_list",
    "sigreturn",
    "time",
    "write",
    "writev",
};

bool fl_syscalls_confine(void)
{
    Rules rules = {.filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS))};

    if (rules.filter == NULL)
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(of_computing); i++)
        add(&rules, seccomp_syscall_resolve_name(of_computing[i]));
    /* For abort(3). */
    add_if(&rules, SCMP_SYS(tgkill), 0, (unsigned)getpid());
    rules.failed = rules.failed || seccomp_load(rules.filter) != 0;
    seccomp_release(rules.filter);
    return !rules.failed;
}

#else

bool fl_syscalls_program(struct sock_fprog *program)
{
    return false;
}

bool fl_syscalls_filter(const FlSyscalls *syscalls)
{
    return false;
}

bool fl_syscalls_confine(void)
{
    return false;
}

#endif
