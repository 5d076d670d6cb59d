/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "syscalls.h"

#include "config.h"

#ifdef HAVE_SECCOMP

#include <errno.h>
#include <glib.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/socket.h>

/* By name: libseccomp knows the numbers of each machine, and what it does not know is left out. */
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
    "sched_setattr",
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
    /* Signals, also to the servers that are to end */
    "alarm",
    "kill",
    "pause",
    "pidfd_open",
    "pidfd_send_signal",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigqueueinfo",
    "rt_sigreturn",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "rt_tgsigqueueinfo",
    "sigaltstack",
    "signalfd",
    "signalfd4",
    "sigreturn",
    "tgkill",
    "tkill",
    "wait4",
    "waitid",
    "waitpid",
    /* What we are */
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
    "prlimit64",
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
    "ioctl",
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
    "fchmod",
    "fchmodat",
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
    "truncate",
    "truncate64",
    "unlink",
    "unlinkat",
    "utimensat",
    /* Sockets of ours; nobody connects to us */
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
    "socketpair",
};

/* Kinds of sockets: NBD servers and monitors, and what getaddrinfo(3) asks the kernel. */
static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_VSOCK, AF_NETLINK};

static bool allow_all(scmp_filter_ctx filter)
{
    int r = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(allowed) && r == 0; i++) {
        int number = seccomp_syscall_resolve_name(allowed[i]);
        if (number != __NR_SCMP_ERROR)
            r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(families) && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                             SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i]));
    /* Threads, but no processes. clone3(2) hides which it is, and C libraries do without. */
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    return r == 0;
}

bool fl_syscalls_filter(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    bool ok;

    if (filter == NULL)
        return false;
    ok = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1) == 0 && allow_all(filter);
    /* Or each call, and on old kernels each access to memory, would be slower than it has to be. */
    seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1);
    seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    ok = ok && seccomp_load(filter) == 0;
    seccomp_release(filter);
    return ok;
}

#else

bool fl_syscalls_filter(void)
{
    return false;
}

#endif
