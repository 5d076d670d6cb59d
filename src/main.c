/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/client.h"
#include "app/forget.h"
#include "app/mounts.h"
#include "config.h"
#include "mount/metrics.h"
#include "mount/session.h"
#include "mount/status.h"
#include "app/options.h"
#include "app/sources.h"
#include "app/vm-options.h"
#include "util/background.h"
#include "util/interrupt.h"
#include "util/jail.h"
#include "util/sandbox.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Minimum number of file descriptors, for a mount of one disk. */
#define FILES_MIN 64

static void quit(void *session)
{
    fl_session_quit(session);
}

static bool write_pid(const char *pidfile, GError **error)
{
    g_autofree char *pid = g_strdup_printf("%d\n", getpid());
    g_autoptr(GError) failure = NULL;
    const char *why;

    if (pidfile == NULL || g_file_set_contents(pidfile, pid, -1, &failure))
        return true;
    /* Before the reason, the message has the name of a temporary file. */
    why = strrchr(failure->message, ':');
    return fl_fail(error, "cannot write the PID file %s%s", pidfile,
                   why != NULL ? why : failure->message);
}

/* A device or a FIFO would be replaced by the PID file, and removed with it. */
static bool check_pidfile(const char *pidfile, GError **error)
{
    struct stat st;

    return pidfile == NULL || stat(pidfile, &st) != 0 || S_ISREG(st.st_mode) ||
           fl_fail(error, "cannot write the PID file %s: %s", pidfile,
                   S_ISDIR(st.st_mode) ? "it is a folder" : "it is not a regular file");
}

static void on_ready(void *background)
{
    fl_background_ready(background);
}

/* Runs after mounting, and before readiness is reported. */
static bool close_sandbox(const FlOptions *options, FlSandbox *sandbox, char **missing_out,
                          GError **error)
{
    g_auto(GStrv) missing = NULL;

    /* Connect to syslog before the sandbox forbids it. */
    if (!options->foreground)
        fl_log_open_syslog();
    if (options->sandbox == FL_SANDBOX_MODE_OFF)
        return true;
    missing = fl_sandbox_close(sandbox);
    if (*missing == NULL)
        return true;
    *missing_out = g_strjoinv("; ", missing);
    if (options->sandbox == FL_SANDBOX_MODE_REQUIRE)
        return fl_fail(error, "the sandbox is incomplete, and -o sandbox=require is given: %s",
                       *missing_out);
    g_warning("the sandbox is incomplete: %s (-o sandbox=require makes this an error)",
              *missing_out);
    return true;
}

/* Serves the tree until it is unmounted. */
static bool serve(const FlOptions *options, FlSources *sources, FlBackground *background,
                  GError **error)
{
    g_auto(GStrv) labels = fl_sources_labels(options);
    g_auto(GStrv) missing_disks = fl_snapshots_missing(sources->snapshots);
    FlStatus status = {
        .tree = sources->tree,
        .cache = sources->cache,
        .throttle = &sources->throttle,
        .options = &options->view,
        .mountpoint = options->mountpoint,
        .sources = labels,
        .missing_disks = missing_disks,
        .series = fl_snapshots_is_empty(sources->snapshots) ? NULL
                  : options->series != NULL                 ? options->series
                                                            : "last",
        .sandbox = options->sandbox != FL_SANDBOX_MODE_OFF,
        .since = {.tv_sec = g_get_real_time() / G_USEC_PER_SEC},
    };
    g_autofree char *label = fl_sources_label(options);
    FlSessionOptions session_options = {
        .mountpoint = options->mountpoint,
        .fsname = label,
        .fuse_options = (char **)options->fuse->pdata,
        .uid = options->uid,
        .direct_io = options->direct_io,
        .gid = options->gid,
        .debug = options->debug,
        .pidfile = options->pidfile,
        .control = fl_snapshots_control(sources->snapshots),
        .throttle = &sources->throttle,
    };
    g_autoptr(FlSandbox) sandbox = fl_sandbox_new();
    g_autofree char *missing = NULL;
    g_autoptr(FlSession) session = NULL;
    bool ok;

    fl_sources_allow(sources, sandbox);
    session_options.sockets = fl_sandbox_sockets(sandbox);
    fl_status_add(&status);
    fl_metrics_add(&status);
    session = fl_session_new(sources->tree, &session_options, error);
    if (session == NULL || !write_pid(options->pidfile, error))
        return false;
    fl_snapshots_start(sources->snapshots, sources->workers, quit, session);
    if (!close_sandbox(options, sandbox, &missing, error))
        return false;
    status.sandbox_missing = missing;
    if (!fl_interrupt_watch(quit, session, error))
        return false;
    fl_interrupt_mask(SIG_UNBLOCK);
    /* Do not keep the file system of the working directory busy. */
    if (background->notify >= 0 && chdir("/") != 0)
        g_debug("cannot change to /");
    fl_session_run(session, on_ready, background);
    fl_background_ending(background);
    /* Answer pending reads before the session is freed. A second signal must not interrupt aborting
     * a snapshot. */
    fl_session_unmount(session);
    ok = fl_sources_close(sources, error);
    /* Nor may a signal interrupt stopping the servers and removing files. */
    fl_interrupt_ignore();
    if (options->pidfile != NULL)
        fl_session_remove_pidfile(session);
    return ok;
}

static bool has_vm(const FlOptions *options)
{
    for (guint i = 0; i < options->sources->len; i++) {
        const FlSourceSpec *spec = options->sources->pdata[i];
        if (spec->text != NULL && fl_source_is_vm(spec->text))
            return true;
    }
    return false;
}

/* The monitor of a VM that is mounted would not answer. */
static bool check_free(const FlOptions *options, GError **error)
{
    for (guint i = 0; i < options->sources->len; i++) {
        const FlSourceSpec *spec = options->sources->pdata[i];

        if (spec->text != NULL && fl_source_is_vm(spec->text) &&
            !fl_mounts_check_free(spec->text, error))
            return false;
    }
    return true;
}

/* Each connection takes a descriptor, and there may be a thousand exports. */
static bool raise_limits(GError **error)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return true;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    /* Without descriptors GLib aborts, and other code reports misleading errors. */
    return files.rlim_max >= FILES_MIN ||
           fl_fail(error,
                   "no more than %llu files may be open (ulimit -n, LimitNOFILE= of a service): "
                   "%d are needed at least",
                   (unsigned long long)files.rlim_max, FILES_MIN);
}

static bool mount_all(const FlOptions *options, FlBackground *background, GError **error)
{
    FlSources sources = {0};
    g_autoptr(GError) why = NULL;
    bool ok;

    if (!raise_limits(error))
        return false;
    /* Block signals: if one arrives after a snapshot has begun, undo the snapshot before exiting,
     * since the guest may be frozen. */
    if (has_vm(options))
        fl_interrupt_mask(SIG_BLOCK);
    if (options->sandbox == FL_SANDBOX_MODE_OFF)
        fl_jail_disable();
    fl_sources_init(&sources, options);
    fl_interrupt_allow(true);
    ok = fl_session_check_options((char **)options->fuse->pdata, error) &&
         fl_mountpoint_check(options->mountpoint, error) &&
         check_pidfile(options->pidfile, error) && check_free(options, error) &&
         fl_sources_open(&sources, error);
    fl_interrupt_allow(false);
    ok = ok && serve(options, &sources, background, error);
    if (!ok && !fl_sources_close(&sources, &why))
        g_warning("%s", why->message);
    fl_sources_clear(&sources);
    return ok;
}

/* Runs a mount from start to end; returns the exit status. */
static int run_mount(const FlOptions *options)
{
    FlBackground background;
    g_autoptr(GError) error = NULL;
    int status = 0;

    fl_background_init(&background);
    if (!options->foreground && !fl_background_start(&background, &status, &error)) {
        if (error != NULL)
            g_critical("%s", error->message);
        return status;
    }
    if (mount_all(options, &background, &error))
        return 0;
    g_critical("%s", error->message);
    return fl_error_exit_status(error);
}

static int run_recover(const FlOptions *options)
{
    const FlSourceSpec *spec = options->sources->pdata[0];
    g_autoptr(GError) error = NULL;
    g_autofree char *report = NULL;

    if (spec->text == NULL || !fl_source_is_vm(spec->text)) {
        fl_fail_usage(&error, "--recover takes qmp:PATH or libvirt:DOMAIN: other sources leave "
                              "nothing behind");
    } else if (fl_mounts_check_free(spec->text, &error)) {
        FlSnapshotOptions backup = fl_source_snapshot_options(options, spec);
        if (fl_snapshot_recover(&backup, &report, &error)) {
            if (*report != '\0')
                puts(report);
            return 0;
        }
    }
    g_critical("%s", error->message);
    return fl_error_exit_status(error);
}

static int run(const FlOptions *options)
{
    switch (options->command) {
    case FL_COMMAND_HELP:
        fputs(options->help, stdout);
        return 0;
    case FL_COMMAND_VERSION:
        puts("fleecefs " FL_VERSION);
        return 0;
    case FL_COMMAND_STATUS:
        return options->watch ? fl_client_watch(options->mountpoint)
                              : fl_client_status(options->mountpoint, options->json);
    case FL_COMMAND_LIST:
        return fl_client_list(options->json);
    case FL_COMMAND_COMMIT:
        return fl_client_end(options->mountpoint, true, options->force);
    case FL_COMMAND_ABORT:
        return fl_client_end(options->mountpoint, false, false);
    case FL_COMMAND_RATE:
        return fl_client_set_rate(options->mountpoint, options->rate);
    case FL_COMMAND_RECOVER:
        return run_recover(options);
    case FL_COMMAND_FORGET:
        return fl_forget(options);
    case FL_COMMAND_MOUNT:
        return run_mount(options);
    }
    return FL_ERROR_USAGE;
}

/* Hides users and passwords of URIs from the process list; the options have their own copies. */
static void hide_credentials(char **argv)
{
    for (; *argv != NULL; argv++) {
        char *start = strstr(*argv, "://");
        char *at = start != NULL ? memrchr(start, '@', strcspn(start + 3, "/?#") + 3) : NULL;

        if (at != NULL)
            memset(start + 3, 'x', (size_t)(at - start - 3));
    }
}

/* Keeps our pipes and sockets from getting descriptors 0 to 2, which are later closed as stdio. */
static void fill_stdio(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlOptions) options = NULL;
    int status;

    fill_stdio();
    signal(SIGPIPE, SIG_IGN);
    g_set_prgname("fleecefs");
    options = fl_options_parse(argv, &error);
    hide_credentials(argv);
    fl_log_init(options == NULL || !(options->debug || options->verbose) ? G_LOG_LEVEL_MESSAGE
                : options->debug                                         ? G_LOG_LEVEL_DEBUG
                                                                         : G_LOG_LEVEL_INFO);
    if (options == NULL) {
        g_critical("%s", error->message);
        return fl_error_exit_status(error);
    }
    status = run(options);
    /* EPIPE is not an error: `| head`. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && errno != EPIPE && status == 0) {
        g_critical("stdout: %s", g_strerror(errno));
        status = FL_ERROR_FAILED;
    }
    return status;
}
