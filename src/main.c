/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/client.h"
#include "app/forget.h"
#include "config.h"
#include "mount/metrics.h"
#include "mount/session.h"
#include "mount/status.h"
#include "app/options.h"
#include "app/sources.h"
#include "util/background.h"
#include "util/interrupt.h"
#include "util/jail.h"
#include "util/sandbox.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const int end_signals[] = {SIGINT, SIGTERM, SIGHUP};

static void quit(void *session)
{
    fl_session_quit(session);
}

static gboolean on_signal(gpointer session)
{
    fl_session_quit(session);
    return G_SOURCE_CONTINUE;
}

static bool write_pid(const char *pidfile, GError **error)
{
    g_autofree char *pid = g_strdup_printf("%d\n", getpid());

    if (pidfile == NULL || g_file_set_contents(pidfile, pid, -1, error))
        return true;
    g_prefix_error(error, "cannot write the pid file: ");
    return false;
}

static void on_ready(void *background)
{
    fl_background_ready(background);
}

/* Once mounted, and before anybody is told so. */
static bool close_sandbox(const FlOptions *options, FlSandbox *sandbox, char **missing_out,
                          GError **error)
{
    g_auto(GStrv) missing = NULL;

    /* Connected to while it can be. */
    if (!options->foreground)
        fl_log_open_syslog();
    if (options->sandbox == FL_SANDBOX_MODE_OFF)
        return true;
    missing = fl_sandbox_close(sandbox);
    if (*missing == NULL)
        return true;
    *missing_out = g_strjoinv("; ", missing);
    if (options->sandbox == FL_SANDBOX_MODE_REQUIRE)
        return fl_fail(error, "the sandbox cannot be closed, as -o sandbox=require wants: %s",
                       *missing_out);
    g_warning("the sandbox is not closed: %s (-o sandbox=require would refuse)", *missing_out);
    return true;
}

/* Serves the tree until it is unmounted. */
static bool serve(const FlOptions *options, FlSources *sources, FlBackground *background,
                  GError **error)
{
    FlStatus status = {
        .tree = sources->tree,
        .cache = sources->cache,
        .options = &options->view,
        .mountpoint = options->mountpoint,
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
        .gid = options->gid,
        .debug = options->debug,
        .pidfile = options->pidfile,
        .control = fl_snapshots_control(sources->snapshots),
    };
    g_autoptr(FlSandbox) sandbox = fl_sandbox_new();
    g_autofree char *missing = NULL;
    g_autoptr(FlSession) session = NULL;
    guint sources_ids[G_N_ELEMENTS(end_signals)];
    bool ok;

    fl_sources_allow(sources, sandbox);
    session_options.sockets = fl_sandbox_sockets(sandbox);
    fl_status_add(&status);
    fl_metrics_add(&status);
    session = fl_session_new(sources->tree, &session_options, error);
    if (session == NULL || !write_pid(options->pidfile, error))
        return false;
    /* GLib's thread for signals, which itself takes none, is started behind the sandbox. */
    fl_snapshots_start(sources->snapshots, quit, session);
    if (!close_sandbox(options, sandbox, &missing, error))
        return false;
    status.sandbox_missing = missing;
    for (guint i = 0; i < G_N_ELEMENTS(end_signals); i++)
        sources_ids[i] = g_unix_signal_add(end_signals[i], on_signal, session);
    fl_interrupt_mask(SIG_UNBLOCK);
    /* The mount point's file system must not stay busy because of us. */
    if (background->notify >= 0 && chdir("/") != 0)
        g_debug("cannot change to /");
    fl_session_run(session, on_ready, background);
    fl_background_ending(background);
    /* Whoever still waits for a read is answered before the session goes; and a second signal must
     * not keep a snapshot from being aborted. */
    fl_session_unmount(session);
    ok = fl_sources_close(sources, error);
    /* Nor what ends the servers and removes files. */
    for (guint i = 0; i < G_N_ELEMENTS(end_signals); i++) {
        g_source_remove(sources_ids[i]);
        signal(end_signals[i], SIG_IGN);
    }
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

static bool mount_all(const FlOptions *options, FlBackground *background, GError **error)
{
    FlSources sources = {0};
    struct rlimit files;
    g_autoptr(GError) why = NULL;
    bool ok;

    /* A connection is a descriptor, and there may be a thousand exports. */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    /* A snapshot that has been begun is undone before a signal ends us: the guest may be frozen. */
    if (has_vm(options))
        fl_interrupt_mask(SIG_BLOCK);
    if (options->sandbox == FL_SANDBOX_MODE_OFF)
        fl_jail_disable();
    fl_sources_init(&sources, options);
    fl_interrupt_allow(true);
    ok = fl_mountpoint_check(options->mountpoint, error) && fl_sources_open(&sources, error);
    fl_interrupt_allow(false);
    ok = ok && serve(options, &sources, background, error);
    if (!ok && !fl_sources_close(&sources, &why))
        g_warning("%s", why->message);
    fl_sources_clear(&sources);
    return ok;
}

/* The whole of a mount; the exit status. */
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
    } else {
        FlSnapshotOptions backup = fl_source_snapshot_options(options, spec);
        if (fl_snapshot_recover(&backup, &report, &error)) {
            fputs(report, stdout);
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
    case FL_COMMAND_RECOVER:
        return run_recover(options);
    case FL_COMMAND_FORGET:
        return fl_forget(options);
    case FL_COMMAND_MOUNT:
        return run_mount(options);
    }
    return FL_ERROR_USAGE;
}

/* Users and passwords in URIs are nothing for the list of processes; what is needed of the words
 * was copied. */
static void hide_credentials(char **argv)
{
    for (; *argv != NULL; argv++) {
        char *start = strstr(*argv, "://");
        char *at = start != NULL ? memrchr(start, '@', strcspn(start + 3, "/?#") + 3) : NULL;

        if (at != NULL)
            memset(start + 3, 'x', (size_t)(at - start - 3));
    }
}

/* A pipe or socket of ours must not get a number that it is closed by as stdin, stdout or stderr.
 */
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
