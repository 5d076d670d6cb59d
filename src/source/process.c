/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/process.h"

#include "util/deadline.h"
#include "util/interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Grace periods for a child to exit when asked, and when killed. */
#define GRACE_MS  5000
#define KILLED_MS 2000
/* How much of a child's output to keep for error messages. */
#define KEPT_BYTES 4096

struct FlProcess {
    GPid pid;
    int pidfd; /* readable once the child has exited */
    char *name;

    GThread *drain;
    int output; /* the child's stdout and stderr; used by the drain thread */
    int stop;   /* eventfd that stops the drain thread */
    GMutex mutex;
    GString *kept; /* protected by mutex */
    bool at_end;   /* protected by mutex: all writers have closed the pipe */
    GCond ended;   /* signals that at_end became true */
};

/* What the child needs between fork and exec, where only async-signal-safe calls are allowed. */
typedef struct {
    pid_t parent;
    int death_signal;
    bool no_new_privs;
    unsigned alarm_seconds; /* 0: none */
    const FlJail *jail;     /* NULL: none */
    char *listen_pid;       /* where to write its pid in its environment; NULL: nowhere */
} ChildSetup;

static void write_decimal(char *to, unsigned n)
{
    char digits[16];
    size_t count = 0;

    do
        digits[count++] = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    while (count > 0)
        *to++ = digits[--count];
    *to = '\0';
}

static void set_up_child(void *opaque)
{
    const ChildSetup *setup = opaque;
    sigset_t none;

    /* The child would inherit the mask and ignored signals, and a server would ignore SIGTERM. */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);

    setsid();
    if (setup->jail != NULL)
        fl_jail_enter(setup->jail);
    prctl(PR_SET_PDEATHSIG, setup->death_signal);
    if (setup->no_new_privs)
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    /* The parent may have died before prctl() took effect. */
    if (getppid() != setup->parent)
        _exit(127);
    alarm(setup->alarm_seconds);
    if (setup->listen_pid != NULL)
        write_decimal(setup->listen_pid, (unsigned)getpid());
}

static bool fail_spawn(const char *program, const GError *failure, GError **error)
{
    g_autofree char *found = g_find_program_in_path(program);

    return fl_fail(error, "cannot run %s: %s", program,
                   found == NULL ? "no such program" : failure->message);
}

static void keep(FlProcess *process, const char *text, size_t size)
{
    g_autofree char *printable = g_utf8_make_valid(text, (gssize)size);
    g_auto(GStrv) lines = g_strsplit(printable, "\n", -1);

    for (char **line = lines; *line != NULL; line++) {
        if (**line != '\0')
            g_debug("%s[%d]: %s", process->name, process->pid, *line);
    }
    g_mutex_lock(&process->mutex);
    g_string_append_len(process->kept, text, (gssize)MIN(size, KEPT_BYTES - process->kept->len));
    g_mutex_unlock(&process->mutex);
}

static void *drain_output(void *opaque)
{
    FlProcess *process = opaque;
    struct pollfd fds[] = {{.fd = process->output, .events = POLLIN},
                           {.fd = process->stop, .events = POLLIN}};
    char text[4096];

    while (fds[1].revents == 0) {
        ssize_t n = read(process->output, text, sizeof text);

        if (n > 0)
            keep(process, text, (size_t)n);
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            break;
        poll(fds, G_N_ELEMENTS(fds), -1);
    }
    g_mutex_lock(&process->mutex);
    process->at_end = true;
    g_cond_broadcast(&process->ended);
    g_mutex_unlock(&process->mutex);
    return NULL;
}

/* Makes the environment of a child that gets N_FDS sockets, or none. LISTEN_PID points to the value
 * to fill in once the pid is known. */
static char **make_environment(size_t n_fds, char **listen_pid)
{
    static const char room[] = "LISTEN_PID=4294967295";
    g_auto(GStrv) environment = g_get_environ();
    g_autofree char *count = g_strdup_printf("%zu", n_fds);
    guint n;

    /* If we were socket-activated ourselves, our variables are not for the child. */
    environment = g_environ_unsetenv(environment, "LISTEN_PID");
    environment = g_environ_unsetenv(environment, "LISTEN_FDS");
    environment = g_environ_unsetenv(environment, "LISTEN_FDNAMES");
    *listen_pid = NULL;
    if (n_fds > 0) {
        environment = g_environ_setenv(environment, "LISTEN_FDS", count, TRUE);
        n = g_strv_length(environment);
        environment = g_renew(char *, environment, n + 2);
        environment[n] = g_strdup(room);
        environment[n + 1] = NULL;
        *listen_pid = environment[n] + strlen("LISTEN_PID=");
    }
    return g_steal_pointer(&environment);
}

/* Takes over PID and OUTPUT. */
static FlProcess *watch_process(const char *program, GPid pid, int output, GError **error)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    int stop = eventfd(0, EFD_CLOEXEC);
    g_autoptr(GError) failure = NULL;
    FlProcess *process;

    if (pidfd < 0 || stop < 0) {
        fl_fail(error, "cannot watch %s: %s", program, g_strerror(errno));
        kill(-pid, SIGKILL);
        waitpid(pid, NULL, 0);
        close(output);
        if (pidfd >= 0)
            close(pidfd);
        if (stop >= 0)
            close(stop);
        return NULL;
    }
    process = g_new0(FlProcess, 1);
    process->pid = pid;
    process->pidfd = pidfd;
    process->name = g_path_get_basename(program);
    process->output = output;
    process->stop = stop;
    process->kept = g_string_new(NULL);
    g_mutex_init(&process->mutex);
    g_cond_init(&process->ended);
    g_unix_set_fd_nonblocking(output, TRUE, NULL);
    process->drain = fl_thread_start("server-output", drain_output, process, &failure);
    if (process->drain != NULL)
        return process;
    fl_fail(error, "cannot watch %s: %s", program, failure->message);
    fl_process_free(process);
    return NULL;
}

FlProcess *fl_process_start(const FlProcessSpec *spec, GError **error)
{
    ChildSetup setup = {.parent = getpid(),
                        .death_signal = spec->death_signal,
                        .no_new_privs = spec->no_new_privs,
                        .jail = spec->jail};
    g_auto(GStrv) environment =
        make_environment(spec->activation ? spec->n_fds : 0, &setup.listen_pid);
    g_autofree int *targets = g_new(int, spec->n_fds);
    g_autoptr(GError) failure = NULL;
    int output[2];
    GPid pid;
    bool ok;

    for (size_t i = 0; i < spec->n_fds; i++)
        targets[i] = 3 + (int)i;
    if (!g_unix_open_pipe(output, FD_CLOEXEC, &failure)) {
        fl_fail(error, "cannot run %s: %s", spec->argv[0], failure->message);
        return NULL;
    }
    ok = g_spawn_async_with_pipes_and_fds(NULL, spec->argv, (const char *const *)environment,
                                          G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD |
                                              G_SPAWN_CLOEXEC_PIPES,
                                          set_up_child, &setup, -1, output[1], output[1], spec->fds,
                                          targets, spec->n_fds, &pid, NULL, NULL, NULL, &failure);
    close(output[1]);
    if (!ok) {
        close(output[0]);
        fail_spawn(spec->argv[0], failure, error);
        return NULL;
    }
    g_debug("started %s[%d]", spec->argv[0], pid);
    return watch_process(spec->argv[0], pid, output[0], error);
}

/* Whether the child exits, or has exited, within MS. Does not reap it, so its pid stays valid. */
static bool ends_within(const FlProcess *process, int ms)
{
    struct pollfd fd = {.fd = process->pidfd, .events = POLLIN};
    gint64 deadline = g_get_monotonic_time() + ms * G_TIME_SPAN_MILLISECOND;
    int r;

    do
        r = poll(&fd, 1, fl_deadline_poll(deadline));
    while (r < 0 && errno == EINTR);
    return r > 0;
}

void fl_process_free(FlProcess *process)
{
    if (process == NULL)
        return;

    kill(-process->pid, SIGTERM);
    if (!ends_within(process, GRACE_MS))
        g_debug("%s[%d] does not end on request", process->name, process->pid);
    /* Also kills what it left behind, before the group id can be reused. */
    kill(-process->pid, SIGKILL);
    if (ends_within(process, KILLED_MS))
        waitpid(process->pid, NULL, 0);

    eventfd_write(process->stop, 1);
    if (process->drain != NULL)
        g_thread_join(process->drain);
    close(process->stop);
    close(process->output);
    close(process->pidfd);
    g_string_free(process->kept, TRUE);
    g_mutex_clear(&process->mutex);
    g_cond_clear(&process->ended);
    g_free(process->name);
    g_free(process);
}

int fl_process_pid(const FlProcess *process)
{
    return process->pid;
}

/* Whether the line after LINE in a program's output is more specific. */
static bool is_minor(const char *line)
{
    /* qemu-img prints the reason of its failure after a failure to remove its output. */
    return strstr(line, "warning:") != NULL || strstr(line, "Error when deleting file") != NULL;
}

/* Returns the line of a program's output to show: the first that is not a warning. */
static char *complaint_in(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    const char *found = NULL;

    for (char **line = lines; *line != NULL; line++) {
        g_strstrip(*line);
        if (**line == '\0')
            continue;
        if (found == NULL || is_minor(found))
            found = *line;
    }
    return found != NULL ? g_utf8_make_valid(found, -1) : NULL;
}

static char *complaint_of(FlProcess *process)
{
    gint64 deadline = g_get_monotonic_time() + G_TIME_SPAN_SECOND;
    char *complaint;

    g_mutex_lock(&process->mutex);
    while (!process->at_end && g_cond_wait_until(&process->ended, &process->mutex, deadline))
        ;
    complaint = complaint_in(process->kept->str);
    g_mutex_unlock(&process->mutex);
    return complaint;
}

bool fl_process_check(FlProcess *process, unsigned wait_ms, GError **error)
{
    g_autofree char *complaint = NULL, *how = NULL;
    siginfo_t info = {0};

    if (!ends_within(process, (int)wait_ms))
        return true;
    waitid(P_PID, (id_t)process->pid, &info, WEXITED | WNOHANG | WNOWAIT);
    how = info.si_code == CLD_EXITED ? g_strdup_printf("ended with status %d", info.si_status)
                                     : g_strdup_printf("was killed by signal %d", info.si_status);
    complaint = complaint_of(process);
    return fl_fail(error, "%s %s%s%s", process->name, how, complaint != NULL ? ": " : "",
                   complaint != NULL ? complaint : "");
}

char *fl_process_output(const char *const *argv, const FlJail *jail, unsigned seconds,
                        GError **error)
{
    ChildSetup setup = {
        .parent = getpid(), .death_signal = SIGKILL, .alarm_seconds = seconds, .jail = jail};
    g_autoptr(GError) failure = NULL;
    g_autofree char *output = NULL, *errors = NULL, *complaint = NULL;
    const char *text;
    int status;

    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_CLOEXEC_PIPES,
                      set_up_child, &setup, &output, &errors, &status, &failure)) {
        fail_spawn(argv[0], failure, error);
        return NULL;
    }
    if (g_spawn_check_wait_status(status, &failure))
        return g_steal_pointer(&output);

    complaint = complaint_in(errors);
    text = complaint != NULL ? complaint : failure->message;
    if (g_str_has_prefix(text, argv[0]) && g_str_has_prefix(text + strlen(argv[0]), ": "))
        text += strlen(argv[0]) + 2;
    fl_fail(error, "%s", text);
    return NULL;
}
