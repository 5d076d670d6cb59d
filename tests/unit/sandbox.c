/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sandbox: what it refuses in every thread. Each test runs in a separate process. */
#include "util/sandbox.h"

#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <linux/landlock.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* None; CAP_SYS_PTRACE for LeakSanitizer. */
#ifdef SANITIZED
#define KEPT UINT64_C(0x80000)
#else
#define KEPT UINT64_C(0)
#endif

/* Probes run in threads started before and after closing the sandbox. */
typedef struct {
    void (*probe)(const char *folder);
    const char *folder;
    int closed[2]; /* a pipe; end of file: the sandbox is closed */
} Probe;

static void *run_probe(void *opaque)
{
    const Probe *probe = opaque;
    char byte;

    while (read(probe->closed[0], &byte, 1) < 0 && errno == EINTR)
        ;
    probe->probe(probe->folder);
    return NULL;
}

/* Ends when it gets the signal that closes the sandbox in a thread, without handling it. */
static void *end_instead(void *opaque)
{
    sigset_t set;

    (void)opaque;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigwaitinfo(&set, NULL);
    return NULL;
}

static void test_thread_that_ends(void)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        FlSandbox *sandbox = fl_sandbox_new();
        g_auto(GStrv) missing = NULL;
        sigset_t set;
        pthread_t thread;

        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN);
        pthread_sigmask(SIG_BLOCK, &set, NULL); /* inherited by the thread */
        pthread_create(&thread, NULL, end_instead, NULL);
        missing = fl_sandbox_close(sandbox);
        pthread_join(thread, NULL);
        for (char **why = missing; *why != NULL; why++)
            g_assert_null(strstr(*why, "thread"));
        _exit(0);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_cmpint(status, ==, 0);
}

/* Runs PROBE, whose assertions are the test, in a sandboxed process. */
static void in_sandbox(void (*probe)(const char *folder))
{
    g_autofree char *folder = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    g_autofree char *open_folder = g_build_filename(folder, "open", NULL);
    g_autofree char *beside = g_build_filename(folder, "beside", NULL);
    Probe shared = {.probe = probe, .folder = folder};
    int status;
    pid_t child;

    g_assert_no_errno(g_mkdir(open_folder, 0700));
    g_assert_true(g_file_set_contents(beside, "", 0, NULL));
    child = fork();
    if (child == 0) {
        FlSandbox *sandbox = fl_sandbox_new();
        pthread_t threads[2];

        g_assert_no_errno(pipe(shared.closed));
        for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++)
            pthread_create(&threads[i], NULL, run_probe, &shared);
        fl_sandbox_allow(sandbox, open_folder,
                         FL_SANDBOX_READ | FL_SANDBOX_WRITE | FL_SANDBOX_REMOVE);
        g_strfreev(fl_sandbox_close(sandbox));
        close(shared.closed[1]);
        for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++)
            pthread_join(threads[i], NULL);
        pthread_create(&threads[0], NULL, run_probe, &shared);
        pthread_join(threads[0], NULL);
        probe(folder);
        _exit(0);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_cmpint(status, ==, 0);
    g_assert_no_errno(g_unlink(beside));
    g_assert_no_errno(g_rmdir(open_folder));
    g_assert_no_errno(g_rmdir(folder));
}

static void assert_fails(long result)
{
    g_assert_cmpint(result, ==, -1);
    g_assert_true(errno == EPERM || errno == EACCES || errno == ENOSYS);
}

static void probe_rights(const char *folder)
{
    g_autofree char *status = NULL;
    guint64 capabilities;

    g_assert_cmpint(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), ==, 1);
    g_assert_true(g_file_get_contents("/proc/thread-self/status", &status, NULL, NULL));
    capabilities = g_ascii_strtoull(strstr(status, "CapPrm:") + strlen("CapPrm:"), NULL, 16);
    g_assert_cmphex(capabilities & ~KEPT, ==, 0);
    assert_fails(umount2("/proc", MNT_DETACH));
    assert_fails(unshare(CLONE_NEWNS));
}

static void probe_syscalls(const char *folder)
{
    static const long forbidden[] = {SYS_execve,    SYS_execveat,          SYS_ptrace,
                                     SYS_bpf,       SYS_perf_event_open,   SYS_process_vm_writev,
                                     SYS_keyctl,    SYS_init_module,       SYS_kexec_load,
                                     SYS_mount,     SYS_open_by_handle_at, SYS_io_uring_setup,
                                     SYS_setns,     SYS_userfaultfd,       SYS_personality,
                                     SYS_listen,    SYS_accept4,           SYS_setuid,
                                     SYS_mknodat,   SYS_symlinkat,         SYS_chroot,
                                     SYS_setresuid, SYS_fchmodat,          SYS_fchmod,
                                     SYS_truncate,  SYS_utimensat,         SYS_pidfd_open,
                                     SYS_socketpair};
    static const int families[] = {AF_PACKET, AF_ALG, AF_BLUETOOTH, AF_UNIX};

    g_assert_cmpint(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), ==, 2);
    for (unsigned i = 0; i < G_N_ELEMENTS(forbidden); i++) {
        g_assert_cmpint(syscall(forbidden[i], 0, 0, 0, 0, 0, 0), ==, -1);
        g_assert_cmpint(errno, ==, ENOSYS);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(families); i++)
        assert_fails(socket(families[i], SOCK_RAW, 0));
    assert_fails(fork());
    /* Calls that the daemon needs. */
    g_assert_cmpint(socket(AF_INET, SOCK_STREAM, 0), >=, 0);
    g_assert_cmpint(kill(getpid(), 0), ==, 0);
    g_assert_cmpint(isatty(STDIN_FILENO), <=, 1);
    /* No signals to others, even if the upper bits of the register are set. */
    assert_fails(kill(getppid(), 0));
    assert_fails(kill(1, 0));
    assert_fails(syscall(SYS_tgkill, getppid(), getppid(), 0));
    assert_fails(syscall(SYS_prlimit64, getppid(), 6, NULL, NULL));
    assert_fails(syscall(SYS_ioctl, 0, TIOCSTI, ""));
    assert_fails(syscall(SYS_ioctl, 0, (UINT64_C(1) << 32) | TIOCSTI, ""));
}

static void probe_files(const char *folder)
{
    g_autofree char *closed = g_build_filename(folder, "file", NULL);
    g_autofree char *beside = g_build_filename(folder, "beside", NULL);
    g_autofree char *name = g_strdup_printf("%s/open/%ld", folder, syscall(SYS_gettid));
    int fd;

    assert_fails(open("/etc/passwd", O_RDONLY));
    assert_fails(open("/etc/shadow", O_RDONLY));
    assert_fails(open("/proc/1/cmdline", O_RDONLY));
    assert_fails(open(closed, O_WRONLY | O_CREAT, 0600));
    assert_fails(open("/dev/urandom", O_WRONLY));
    assert_fails(unlink(beside));
    g_assert_cmpint(rename(beside, name), ==, -1);
    g_assert_cmpint(open("/dev/urandom", O_RDONLY), >=, 0);
    g_assert_cmpint(open("/proc/self/statm", O_RDONLY), >=, 0);
    fd = open(name, O_WRONLY | O_CREAT, 0600);
    g_assert_cmpint(fd, >=, 0);
    g_assert_no_errno(ftruncate(fd, 10));
    g_assert_no_errno(unlink(name));
}

static void test_rights(void)
{
    in_sandbox(probe_rights);
}

static void test_syscalls(void)
{
#if defined HAVE_SECCOMP && !defined SANITIZED
    in_sandbox(probe_syscalls);
#else
    (void)probe_syscalls;
    g_test_skip("no filter in this build");
#endif
}

static void test_files(void)
{
#ifdef SANITIZED
    (void)probe_files;
    g_test_skip("not in a build with sanitizers");
#else
    if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 1)
        g_test_skip("the kernel has no Landlock");
    else
        in_sandbox(probe_files);
#endif
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/sandbox/rights", test_rights);
    g_test_add_func("/sandbox/syscalls", test_syscalls);
    g_test_add_func("/sandbox/files", test_files);
    g_test_add_func("/sandbox/thread-that-ends", test_thread_that_ends);
    return g_test_run();
}
