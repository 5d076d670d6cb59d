/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/session.h"

#include "ops.h"
#include "util/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    GSource source;
    FlSession *session;
    gpointer tag;
} FuseSource;

struct FlSession {
    FlOps *ops;
    struct fuse_session *fuse;
    struct fuse_buf buf; /* one request; libfuse grows it as needed */
    GMainLoop *loop;
    GSource *source;
    FlMountpoint *mountpoint;
    FlKeeper *keeper;
    bool mounted;
    int readahead; /* descriptor of the kernel's setting; -1: none, or written */
};

/* Limits of one iteration of the loop, before connections get their turn: number of requests, and
 * microseconds. A large reply takes all of that time, a small one almost none. */
#define REQUESTS_MAX 16
#define TURN_USEC    100
/* Microseconds of busy polling before sleeping, and number of failures after which it stops. */
#define EAGER_USEC   G_GINT64_CONSTANT(50)
#define EAGER_CREDIT 4
/* Two maximum-size requests: one is in flight while the other is copied. */
#define KERNEL_READAHEAD_KIB 2048
/* Of fusermount3(1). */
#define FUSE_CONF "/etc/fuse.conf"

static gboolean fuse_check(GSource *source)
{
    FuseSource *fuse = (FuseSource *)source;

    return g_source_query_unix_fd(source, fuse->tag) != 0;
}

/*
 * Opens the setting that lets the kernel request more than 128 KiB at once: each request is
 * expensive for both sides. Only root may change it; unprivileged mounts keep the kernel's default.
 */
static int open_readahead(const FlMountpoint *mountpoint)
{
    g_autofree char *path =
        g_strdup_printf("/sys/class/bdi/%s/read_ahead_kb", fl_mountpoint_device(mountpoint));
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        g_debug("cannot set the kernel's readahead: %s", g_strerror(errno));
    return fd;
}

/* Call after the first request: the kernel resets the value when it receives the reply to INIT. */
static void tune_readahead(FlSession *session)
{
    g_autofree char *kib = g_strdup_printf("%u", KERNEL_READAHEAD_KIB);

    if (write(session->readahead, kib, strlen(kib)) < 0)
        g_debug("cannot set the kernel's readahead: %s", g_strerror(errno));
    close(session->readahead);
    session->readahead = -1;
}

static gboolean fuse_dispatch(GSource *source, GSourceFunc callback, gpointer data)
{
    FlSession *session = ((FuseSource *)source)->session;
    gint64 end = g_get_monotonic_time() + TURN_USEC;

    for (unsigned i = 0; i < REQUESTS_MAX && (i == 0 || g_get_monotonic_time() < end); i++) {
        int r = fuse_session_receive_buf(session->fuse, &session->buf);

        if (r == -EAGAIN || r == -EINTR)
            return G_SOURCE_CONTINUE;
        if (r <= 0) {
            /* 0 or -ENODEV: unmounted. */
            if (r < 0 && r != -ENODEV)
                g_warning("cannot read from /dev/fuse: %s", g_strerror(-r));
            fl_session_quit(session);
            return G_SOURCE_REMOVE;
        }
        fuse_session_process_buf(session->fuse, &session->buf);
        if (session->readahead >= 0)
            tune_readahead(session);
        if (fuse_session_exited(session->fuse)) {
            fl_session_quit(session);
            return G_SOURCE_REMOVE;
        }
    }
    return G_SOURCE_CONTINUE;
}

/*
 * Polls busily for a while before sleeping, if recent waits were short: being woken up costs a
 * virtual machine more than most of the work here, and a reader that alternates between seeking and
 * reading waits for it each time. The state is static because GLib passes no user data to its poll
 * function; it is only a hint, and is private to the loop's thread.
 */
static gint poll_eagerly(GPollFD *fds, guint n, gint timeout)
{
    static _Thread_local unsigned credit;
    gint64 start = g_get_monotonic_time();
    int r = poll((struct pollfd *)fds, n, 0);

    if (r != 0 || timeout == 0)
        return r;
    while (credit > 0 && g_get_monotonic_time() - start < EAGER_USEC) {
        sched_yield();
        r = poll((struct pollfd *)fds, n, 0);
        if (r != 0)
            return r;
    }
    r = poll((struct pollfd *)fds, n, timeout);
    if (g_get_monotonic_time() - start < 2 * EAGER_USEC)
        credit = EAGER_CREDIT;
    else if (credit > 0)
        credit--;
    return r;
}

static GSourceFuncs fuse_funcs = {.check = fuse_check, .dispatch = fuse_dispatch};

/* Escapes commas, which would end the option, and backslashes, which escape the next character. */
static char *escape_option(const char *option)
{
    GString *escaped = g_string_new(NULL);

    for (; *option != '\0'; option++) {
        if (*option == ',' || *option == '\\')
            g_string_append_c(escaped, '\\');
        g_string_append_c(escaped, *option);
    }
    return g_string_free(escaped, FALSE);
}

/* libfuse parses its options from an argument vector. */
static void add_options(struct fuse_args *args, const FlSessionOptions *options)
{
    g_autofree char *fsname = g_strconcat("-ofsname=", options->fsname, NULL);
    /* A comma would end the name, and a newline would break /proc/mounts. */
    g_autofree char *safe = g_strdelimit(g_strdup(fsname), ",\n\\", '_');

    fuse_opt_add_arg(args, "fleecefs");
    fuse_opt_add_arg(args, safe);
    fuse_opt_add_arg(args, "-osubtype=fleecefs,ro,nosuid,nodev,noexec,default_permissions");
    if (options->debug)
        fuse_opt_add_arg(args, "-odebug");
    for (char **o = options->fuse_options; o != NULL && *o != NULL; o++) {
        g_autofree char *escaped = escape_option(*o);

        fuse_opt_add_arg(args, "-o");
        fuse_opt_add_arg(args, escaped);
    }
}

static FlKeeper *start_keeper(const FlSession *session, const FlSessionOptions *options,
                              GError **error)
{
    FlKeeperSpec spec = {.mountpoint = session->mountpoint,
                         .pidfile = options->pidfile,
                         .sockets = options->sockets};

    return fl_keeper_start(&spec, error);
}

static bool can_fork(void)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    return pid > 0 && waitpid(pid, NULL, 0) == pid;
}

/* Explains why FUSE cannot mount, and what to do about it. */
static const char *why_not_mounted(void)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC), why = errno;

    if (!can_fork()) {
        if (fd >= 0)
            close(fd);
        return "a process cannot be started: Resource temporarily unavailable" FL_LIMITS;
    }
    if (fd >= 0)
        close(fd);
    else if (why == ENOENT || why == ENODEV || why == ENXIO)
        return "/dev/fuse does not exist: load the module (modprobe fuse); a container needs "
               "--device /dev/fuse --cap-add SYS_ADMIN";
    else
        return "/dev/fuse cannot be opened: a container needs --device /dev/fuse --cap-add "
               "SYS_ADMIN";
    if (geteuid() == 0)
        return "the kernel does not permit it: a container needs --cap-add SYS_ADMIN, and under "
               "AppArmor also --security-opt apparmor=unconfined";
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
        return "fusermount3 gets no privileges under NoNewPrivileges: run as root, or without "
               "NoNewPrivileges";
    return "is fusermount3 installed, and are you permitted to mount there?";
}

/* Whether mount(2) may be used, and not only fusermount3. */
static bool can_mount(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

    return syscall(SYS_capget, &header, data) == 0 &&
           (data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN)) != 0;
}

bool fl_session_check_options(char **fuse_options, GError **error)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    g_autoptr(GError) failure = NULL;

    for (; *fuse_options != NULL && !g_str_equal(*fuse_options, "allow_other") &&
           !g_str_equal(*fuse_options, "allow_root");
         fuse_options++)
        ;
    if (*fuse_options == NULL || can_mount())
        return true;
    /* Only fusermount3 can judge a file that this user cannot read. */
    if (!g_file_get_contents(FUSE_CONF, &text, NULL, &failure) &&
        !g_error_matches(failure, G_FILE_ERROR, G_FILE_ERROR_NOENT))
        return true;
    lines = g_strsplit(text != NULL ? text : "", "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        if (g_str_equal(g_strstrip(*line), "user_allow_other"))
            return true;
    }
    return fl_fail(error,
                   "option %s: not permitted to users other than root: add the line "
                   "user_allow_other to " FUSE_CONF ", or leave out the option",
                   *fuse_options);
}

/* The last message of libfuse, which becomes part of the error. */
static char *complaint;

G_GNUC_PRINTF(2, 0)
static void keep_complaint(enum fuse_log_level level, const char *format, va_list args)
{
    g_autofree char *text = g_strchomp(g_strdup_vprintf(format, args));

    if (level > FUSE_LOG_ERR) {
        g_debug("%s", text);
        return;
    }
    g_free(complaint);
    complaint = g_steal_pointer(&text);
}

static bool mount_session(const FlSession *session, const char *mountpoint, GError **error)
{
    bool ok;

    fuse_set_log_func(keep_complaint);
    ok = fuse_session_mount(session->fuse, mountpoint) == 0;
    fuse_set_log_func(NULL);
    if (!ok && complaint != NULL)
        fl_fail(error, "cannot mount on %s: %s (%s)", mountpoint, why_not_mounted(), complaint);
    else if (!ok)
        fl_fail(error, "cannot mount on %s: %s", mountpoint, why_not_mounted());
    g_clear_pointer(&complaint, g_free);
    return ok;
}

FlSession *fl_session_new(FlTree *tree, const FlSessionOptions *options, GError **error)
{
    g_autoptr(FlSession) session = g_new0(FlSession, 1);
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    int fd;

    session->readahead = -1;
    session->loop = g_main_loop_new(NULL, FALSE);
    session->ops = fl_ops_new(tree, options);
    add_options(&args, options);
    session->fuse = fuse_session_new(&args, &fl_fuse_ops, sizeof fl_fuse_ops, session->ops);
    fuse_opt_free_args(&args);
    if (session->fuse == NULL) {
        fl_fail_usage(error, "FUSE does not accept the mount options");
        return NULL;
    }
    if (!mount_session(session, options->mountpoint, error))
        return NULL;
    session->mounted = true;
    session->mountpoint = fl_mountpoint_new(options->mountpoint, error);
    if (session->mountpoint == NULL)
        return NULL;
    session->keeper = start_keeper(session, options, error);
    if (session->keeper == NULL)
        return NULL;
    session->readahead = open_readahead(session->mountpoint);

    fd = fuse_session_fd(session->fuse);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    session->source = g_source_new(&fuse_funcs, sizeof(FuseSource));
    ((FuseSource *)session->source)->session = session;
    /* Callbacks never run the loop recursively. Without this flag GLib would wake its own poll
     * twice per dispatch. */
    g_source_set_can_recurse(session->source, TRUE);
    ((FuseSource *)session->source)->tag = g_source_add_unix_fd(session->source, fd, G_IO_IN);
    g_source_attach(session->source, NULL);
    g_main_context_set_poll_func(NULL, poll_eagerly);
    return g_steal_pointer(&session);
}

void fl_session_run(FlSession *session, void (*ready)(void *opaque), void *opaque)
{
    ready(opaque);
    g_main_loop_run(session->loop);
}

void fl_session_quit(FlSession *session)
{
    g_main_loop_quit(session->loop);
}

/*
 * Closes the connection to the kernel and unmounts, unless already unmounted from outside:
 * something else may be mounted there by now.
 */
static void unmount(FlSession *session)
{
    struct pollfd fd = {.fd = fuse_session_fd(session->fuse)};
    int pipe_fds[2];

    if (session->keeper == NULL || (poll(&fd, 1, 0) == 1 && (fd.revents & POLLERR)) ||
        pipe2(pipe_fds, O_CLOEXEC) < 0)
        return;
    /* libfuse still has memory to free. It takes a descriptor in error state as an unmounted file
     * system, so give it a pipe without a reader. */
    close(pipe_fds[0]);
    dup3(pipe_fds[1], fd.fd, O_CLOEXEC);
    close(pipe_fds[1]);
    if (!fl_keeper_unmount(session->keeper))
        g_warning("the mount was moved from its mount point, or cannot be unmounted: it stays "
                  "without its daemon; find it in /proc/self/mounts, and run umount -l on it");
}

void fl_session_remove_pidfile(FlSession *session)
{
    fl_keeper_remove_pidfile(session->keeper);
}

void fl_session_unmount(FlSession *session)
{
    if (session->source != NULL)
        g_source_destroy(session->source);
    g_clear_pointer(&session->source, g_source_unref);
    if (session->mounted) {
        unmount(session);
        fuse_session_unmount(session->fuse);
    }
    session->mounted = false;
}

void fl_session_free(FlSession *session)
{
    if (session == NULL)
        return;
    fl_session_unmount(session);
    if (session->fuse != NULL)
        fuse_session_destroy(session->fuse);
    fl_ops_free(session->ops);
    g_clear_pointer(&session->loop, g_main_loop_unref);
    free(session->buf.mem);
    fl_keeper_free(session->keeper);
    fl_mountpoint_free(session->mountpoint);
    if (session->readahead >= 0)
        close(session->readahead);
    g_free(session);
}
