/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The process that runs ssh. It is forked from a process with threads: no allocations or locks
 * here. */
#include "ssh-life.h"

#include "util/deadline.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Milliseconds: interval of polling for a new connection; time to end after SIGTERM; and first and
 * last delay between attempts, doubled each time. */
#define LOOK_MS       20
#define GRACE_MS      1000
#define FIRST_WAIT_MS 100
#define LAST_WAIT_MS  5000
/* Bytes of stderr to read at a time, if the other host sends without end. */
#define ERRORS_MAX 65536

static void end_master(FlSshLife *life);

/* Cleans up and exits: the daemon has gone. */
_Noreturn static void end(FlSshLife *life)
{
    end_master(life);
    for (unsigned i = 0; i < life->n_forwards; i++) {
        char *colon = strchr(life->forwards[i], ':');

        *colon = '\0';
        unlink(life->forwards[i]);
    }
    unlink(life->control);
    rmdir(life->folder);
    _exit(0);
}

/* Starts ssh with ARGV. IN, OUT and ERR: its standard descriptors, -1: /dev/null. Returns its pid,
 * or -1. */
static pid_t spawn(const FlSshLife *life, char **argv, int in, int out, int err)
{
    pid_t parent = getpid(), child = fork();
    int fds[] = {in, out, err};
    sigset_t none;

    if (child != 0)
        return child;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(127);
    for (int i = 0; i < 3; i++) {
        /* Move it above the descriptors that are about to be replaced. */
        fds[i] = fds[i] < 0 ? open("/dev/null", O_RDWR | O_CLOEXEC) : fds[i];
        fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
    }
    for (int i = 0; i < 3; i++)
        dup2(fds[i], i);
    execv(life->program, argv);
    _exit(127);
}

static void stop(pid_t pid, int pidfd)
{
    struct pollfd fd = {.fd = pidfd, .events = POLLIN};

    kill(-pid, SIGTERM);
    if (pidfd < 0 || poll(&fd, 1, GRACE_MS) <= 0)
        kill(-pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* Keeps the end of what ssh writes to stderr. */
static void read_errors(FlSshLife *life)
{
    size_t used = strlen(life->complaint);
    const size_t room = sizeof life->complaint - 1;
    char text[1024];
    ssize_t n = 1;

    for (size_t i = 0; i < ERRORS_MAX / sizeof text; i++) {
        n = read(life->errors, text, sizeof text);
        if (n <= 0)
            break;
        size_t drop = used + (size_t)n > room ? used + (size_t)n - room : 0;

        memmove(life->complaint, life->complaint + drop, used - drop);
        used -= drop;
        memcpy(life->complaint + used, text, (size_t)n);
        used += (size_t)n;
        life->complaint[used] = '\0';
    }
    if (n == 0) {
        close(life->errors);
        life->errors = -1;
    }
}

/* Stops ssh if it still runs, and schedules the next attempt. */
static void end_master(FlSshLife *life)
{
    int *fds[] = {&life->in, &life->out, &life->errors, &life->pidfd};

    if (life->pid == 0)
        return;
    stop(life->pid, life->pidfd);
    if (life->errors >= 0)
        read_errors(life);
    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
    life->pid = 0;
    life->next_try = g_get_monotonic_time() + (gint64)life->wait_ms * 1000;
    life->wait_ms = MIN(life->wait_ms * 2, LAST_WAIT_MS);
}

/* Appends what can be read from FD to life->output, of which USED bytes are used, and drops what
 * does not fit. False at end of file or on error. */
static bool read_output(FlSshLife *life, int fd, size_t *used)
{
    const size_t most = FL_SSH_MESSAGE - sizeof(FlSshHead) - 1;
    char spare[512];
    ssize_t n =
        *used < most ? read(fd, life->output + *used, most - *used) : read(fd, spare, sizeof spare);

    if (n > 0 && *used < most)
        *used += (size_t)n;
    life->output[*used] = '\0';
    return n > 0 || (n < 0 && errno == EINTR);
}

/* Replaces life->output by the reason why there was no answer. A login shell that does not run sh
 * may have said why in its output. */
static void explain_end(FlSshLife *life, bool in_time, bool begun)
{
    static const char early[] = "the connection ended before sh ran (check the login shell): ";
    char *said = life->output + strspn(life->output, "\r\n ");
    size_t length = strcspn(said, "\r\n");

    if (!in_time) {
        strcpy(life->output, "no answer in time (-o timeout=)");
    } else if (begun || length == 0 || length + sizeof early > FL_SSH_MESSAGE) {
        g_snprintf(life->output, FL_SSH_MESSAGE, "the connection has ended\n%s", life->complaint);
    } else {
        memmove(life->output + sizeof early - 1, said, length);
        memcpy(life->output, early, sizeof early - 1);
        life->output[sizeof early - 1 + length] = '\0';
    }
}

/* After ssh has ended: replaces life->complaint if the login shell has said something instead of
 * running sh. */
static void note_shell(FlSshLife *life)
{
    struct pollfd fd = {.fd = life->out, .events = POLLIN};
    size_t used = 0;

    if (poll(&fd, 1, 0) <= 0 || !read_output(life, life->out, &used) || used == 0)
        return;
    if (life->errors >= 0)
        read_errors(life);
    explain_end(life, true, false);
    g_strlcpy(life->complaint, life->output, sizeof life->complaint);
}

/* Waits for FD until DEADLINE. False on timeout. */
static bool wait_for(FlSshLife *life, int fd, gint64 deadline)
{
    struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = life->channel}};
    int r = poll(fds, G_N_ELEMENTS(fds), fl_deadline_poll(deadline));

    if (r > 0 && (fds[1].revents & (POLLHUP | POLLERR)) != 0)
        end(life);
    return r != 0 && fl_deadline_left(deadline) > 0;
}

/* Runs ARGV to its end, with its output in life->output. Returns whether it succeeded. */
static bool run(FlSshLife *life, char **argv)
{
    gint64 deadline = fl_deadline_in(life->seconds);
    int said[2], status = 1;
    size_t used = 0;
    bool in_time = true;
    pid_t pid;

    strcpy(life->output, "cannot start a process");
    if (pipe2(said, O_CLOEXEC) != 0)
        return false;
    pid = spawn(life, argv, -1, said[1], said[1]);
    close(said[1]);
    while (pid > 0 && (in_time = wait_for(life, said[0], deadline)) &&
           read_output(life, said[0], &used))
        ;
    close(said[0]);
    if (!in_time) {
        strcpy(life->output, "it took too long (-o timeout=)");
        stop(pid, -1);
    } else if (pid > 0) {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    return in_time && pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool forward(FlSshLife *life, unsigned i)
{
    char *colon = strchr(life->forwards[i], ':');

    *colon = '\0';
    unlink(life->forwards[i]);
    *colon = ':';
    life->forward[life->slot] = life->forwards[i];
    return run(life, life->forward);
}

/* Waits until the connection is established. */
static bool await_control(FlSshLife *life)
{
    gint64 deadline = fl_deadline_in(life->seconds);

    while (access(life->control, F_OK) != 0) {
        struct pollfd fds[] = {{.fd = life->pidfd, .events = POLLIN}, {.fd = life->channel}};

        if (fl_deadline_left(deadline) == 0) {
            strcpy(life->complaint, "no connection in time (-o timeout=)");
            return false;
        }
        if (poll(fds, G_N_ELEMENTS(fds), LOOK_MS) <= 0)
            continue;
        if ((fds[1].revents & (POLLHUP | POLLERR)) != 0)
            end(life);
        if (fds[0].revents != 0) {
            note_shell(life);
            return false;
        }
    }
    return true;
}

/* Starts ssh, with pipes for its standard descriptors. */
static bool spawn_master(FlSshLife *life)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};

    if (pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0)
        life->pid = spawn(life, life->master, in[0], out[1], err[1]);
    close(in[0]);
    close(out[1]);
    close(err[1]);
    life->in = in[1];
    life->out = out[0];
    life->errors = err[0];
    if (life->pid <= 0) {
        close(life->in);
        close(life->out);
        close(life->errors);
        life->in = life->out = life->errors = -1;
        life->pid = 0;
        return false;
    }
    /* read_errors() and write_all() must not block. */
    fcntl(life->errors, F_SETFL, O_NONBLOCK);
    fcntl(life->in, F_SETFL, O_NONBLOCK);
    life->pidfd = (int)syscall(SYS_pidfd_open, life->pid, 0);
    return true;
}

static bool connect_master(FlSshLife *life)
{
    if (life->pid > 0)
        return true;
    life->wanted = true;
    life->complaint[0] = '\0';
    unlink(life->control);
    if (!spawn_master(life)) {
        strcpy(life->complaint, "cannot start a process");
        return false;
    }
    if (!await_control(life)) {
        end_master(life);
        return false;
    }
    for (unsigned i = 0; i < life->n_forwards; i++) {
        if (!forward(life, i)) {
            g_strlcpy(life->complaint, life->output, sizeof life->complaint);
            end_master(life);
            return false;
        }
    }
    life->wait_ms = FIRST_WAIT_MS;
    return true;
}

/* Requests */

static void answer(const FlSshLife *life, const FlSshHead *head, bool ok, const char *text)
{
    FlSshHead reply = {.number = head->number, .what = ok};
    struct iovec parts[] = {{.iov_base = &reply, .iov_len = sizeof reply},
                            {.iov_base = (char *)text, .iov_len = strlen(text)}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = G_N_ELEMENTS(parts)};

    while (sendmsg(life->channel, &message, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

/* Appends TEXT to TO, which has room for FL_SSH_MESSAGE bytes, of which LENGTH are used. QUOTED:
 * quotes it for the shell. Returns the new length, or 0 if it does not fit. */
static size_t append(char *to, size_t length, const char *text, bool quoted)
{
    if (length == 0 || length + 4 * strlen(text) + 4 > FL_SSH_MESSAGE)
        return 0;
    if (quoted)
        to[length++] = '\'';
    for (; *text != '\0'; text++) {
        if (quoted && *text == '\'') {
            memcpy(to + length, "'\\'", 3);
            length += 3;
        }
        to[length++] = *text;
    }
    if (quoted) {
        to[length++] = '\'';
        to[length++] = ' ';
    }
    return length;
}

/* Writes the shell commands that run the script of HEAD with the arguments STRINGS to life->text.
 * Returns their length; 0 if they are too long. */
static size_t tell_shell(FlSshLife *life, const FlSshHead *head, const char *strings)
{
    static const char start[] = "LC_ALL=C; export LC_ALL; printf '\\n%s\\n' ";
    const char *script = life->scripts[head->script];
    bool inside = script[0] == '{';
    char *input = life->text;
    size_t length = sizeof start - 1;

    memcpy(input, start, length);
    length = append(input, length, life->mark, true);
    length = append(input, length, inside ? "\n{ set -- " : "\n( set -- ", false);
    for (unsigned i = 0; i < head->count; i++, strings += strlen(strings) + 1)
        length = append(input, length, strings, true);
    length = append(input, length, "\n", false);
    length = append(input, length, script, false);
    length = append(input, length, inside ? "\n}" : "\n)", false);
    length = append(input, length, " 2>&1 </dev/null\nprintf '\\n%s %d\\n' ", false);
    length = append(input, length, life->mark, true);
    return append(input, length, "$?\n", false);
}

/* Finds the mark at the beginning of a line of TEXT, the shell's output, followed by END ('\n': the
 * script begins; ' ': it has ended). Returns what follows, or NULL if it is not there yet. */
static char *find_mark(const FlSshLife *life, char *text, char end)
{
    size_t length = strlen(life->mark);

    for (char *at = strstr(text, life->mark); at != NULL; at = strstr(at + 1, life->mark)) {
        if (at > life->output && at[-1] == '\n' && at[length] == end)
            return at + length + 1;
    }
    return NULL;
}

/* Reads the script's output into life->output. BEGUN: whether the script has started. Returns
 * whether it succeeded. */
static bool read_answer(FlSshLife *life, bool *begun)
{
    gint64 deadline = fl_deadline_in(life->seconds);
    char *text = NULL, *end = NULL;
    size_t used = 0, length;
    bool ok;

    life->output[0] = '\0';
    while (end == NULL || strchr(end, '\n') == NULL) {
        bool in_time = wait_for(life, life->out, deadline);

        if (!in_time || !read_output(life, life->out, &used) ||
            used + sizeof(FlSshHead) + 1 == FL_SSH_MESSAGE) {
            end_master(life);
            explain_end(life, in_time, *begun);
            return false;
        }
        text = find_mark(life, life->output, '\n');
        *begun = text != NULL;
        end = text != NULL ? find_mark(life, text, ' ') : NULL;
    }
    ok = *end == '0';
    /* Drop the newline printed to put the mark at the beginning of a line. */
    end -= strlen(life->mark) + 2;
    length = end > text ? (size_t)(end - text) : 0;
    memmove(life->output, text, length);
    life->output[length] = '\0';
    return ok;
}

/* Writes to the shell. On failure returns false and sets errno: ETIMEDOUT on timeout, which a
 * script that is larger than the pipe can cause. */
static bool write_all(FlSshLife *life, const char *text, size_t length)
{
    gint64 deadline = fl_deadline_in(life->seconds);

    while (length > 0) {
        struct pollfd fds[] = {{.fd = life->in, .events = POLLOUT}, {.fd = life->channel}};
        ssize_t n = write(life->in, text, length);

        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return false;
        text += MAX(n, 0);
        length -= (size_t)MAX(n, 0);
        if (length == 0)
            break;
        if (poll(fds, G_N_ELEMENTS(fds), fl_deadline_poll(deadline)) == 0) {
            errno = ETIMEDOUT;
            return false;
        }
        if ((fds[1].revents & (POLLHUP | POLLERR)) != 0)
            end(life);
    }
    return true;
}

static void run_script(FlSshLife *life, const FlSshHead *head, const char *strings)
{
    size_t length = head->script < life->n_scripts ? tell_shell(life, head, strings) : 0;
    bool begun = false, ok = false;

    if (length == 0) {
        answer(life, head, false, "no such script");
        return;
    }
    /* The connection may be dead already; then the script has not started, and is retried once. */
    for (int i = 0; i < 2 && !begun; i++) {
        if (!connect_master(life)) {
            answer(life, head, false, life->complaint);
            return;
        }
        if (write_all(life, life->text, length) || errno == EPIPE) {
            ok = read_answer(life, &begun);
        } else {
            end_master(life);
            strcpy(life->output, "the connection has ended");
        }
    }
    answer(life, head, ok, life->output);
}

static void add_forward(FlSshLife *life, const FlSshHead *head, const char *strings)
{
    const char *here = strings, *there = head->count == 2 ? here + strlen(here) + 1 : here;
    char *words = life->n_forwards < FL_SSH_FORWARDS ? life->forwards[life->n_forwards] : NULL;
    bool ok;

    if (head->count != 2 || life->sealed || words == NULL || strlen(here) >= PATH_MAX ||
        strlen(there) >= PATH_MAX) {
        answer(life, head, false, "no further sockets are forwarded");
        return;
    }
    if (!connect_master(life)) {
        answer(life, head, false, life->complaint);
        return;
    }
    strcpy(words, here);
    strcat(words, ":");
    strcat(words, there);
    ok = forward(life, life->n_forwards);
    if (ok)
        life->n_forwards++;
    answer(life, head, ok, life->output);
}

/* Whether STRINGS, of LENGTH bytes, holds as many strings as HEAD says. */
static bool is_whole(const FlSshHead *head, const char *strings, size_t length)
{
    for (unsigned i = 0; i < head->count; i++) {
        const char *zero = memchr(strings, '\0', length);

        if (zero == NULL)
            return false;
        length -= (size_t)(zero + 1 - strings);
        strings = zero + 1;
    }
    return true;
}

static void serve(FlSshLife *life)
{
    const char *strings = life->message + sizeof(FlSshHead);
    ssize_t n = recv(life->channel, life->message, FL_SSH_MESSAGE, 0);
    FlSshHead head;

    if (n < 0 && errno == EINTR)
        return;
    if (n < (ssize_t)sizeof head)
        end(life);
    memcpy(&head, life->message, sizeof head);
    if (!is_whole(&head, strings, (size_t)n - sizeof head))
        end(life);
    switch (head.what) {
    case FL_SSH_RUN:
        run_script(life, &head, strings);
        break;
    case FL_SSH_FORWARD:
        add_forward(life, &head, strings);
        break;
    case FL_SSH_SEAL:
        life->sealed = true;
        answer(life, &head, true, "");
        break;
    case FL_SSH_COMPLAINT:
        if (life->errors >= 0)
            read_errors(life);
        answer(life, &head, true, life->complaint);
        break;
    default:
        end(life);
    }
}

static int time_left(const FlSshLife *life)
{
    return life->pid == 0 && life->wanted ? fl_deadline_poll(life->next_try) : -1;
}

void fl_ssh_live(FlSshLife *life)
{
    sigset_t all;

    /* Signals such as ^C are for the daemon, which then sends requests. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    setsid();
    prctl(PR_SET_NAME, "fleecefs-ssh");
    /* Do not keep the working directory or other open files busy. */
    if (chdir("/") != 0)
        _exit(1);
    syscall(SYS_close_range, 0, life->channel - 1, 0);
    syscall(SYS_close_range, life->channel + 1, ~0U, 0);
    life->wait_ms = FIRST_WAIT_MS;
    for (;;) {
        struct pollfd fds[] = {{.fd = life->channel, .events = POLLIN},
                               {.fd = life->errors, .events = POLLIN},
                               {.fd = life->pidfd, .events = POLLIN}};

        poll(fds, G_N_ELEMENTS(fds), time_left(life));
        if (fds[1].revents != 0)
            read_errors(life);
        if (fds[2].revents != 0)
            end_master(life);
        if (fds[0].revents != 0)
            serve(life);
        if (life->pid == 0 && life->wanted && fl_deadline_left(life->next_try) == 0)
            connect_master(life);
    }
}
