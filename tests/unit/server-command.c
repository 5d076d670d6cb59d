/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Servers started by a command: nbdkit, and commands that fail or do not end. */
#include "server-helper.h"

#include "source/command/command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void test_command(Fixture *fixture, gconstpointer data)
{
    static const char *const argv[] = {"nbdkit", "-f", "memory", "1M", NULL};
    g_autoptr(GError) error = NULL;
    g_autoptr(FlServer) server = fl_server_new_command(argv, &error);
    struct nbd_handle *nbd;

    g_assert_no_error(error);
    nbd = connect_to(server, "", NULL);
    g_assert_cmpint(nbd_get_size(nbd), ==, MIB);
    assert_byte(nbd, 0, 0);
    nbd_close(nbd);
    nbd_close(connect_to(server, "", NULL));
}

/* A server inherits only the socket and its standard descriptors. */
static void test_inherited(Fixture *fixture, gconstpointer data)
{
    static const char *const argv[] = {
        "/bin/sh", "-c",
        "ls -l /proc/$$/fd > fds; echo $LISTEN_FDS $(($LISTEN_PID - $$)) \"$LISTEN_FDNAMES\" > env;"
        "ps -o sid= -o pid= -p $$ > session; readlink /proc/$$/fd/0 > stdin;"
        /* Builtins only: a shell blocks signals while it starts a program. */
        "while read key value; do case $key in SigBlk:|SigIgn:) echo $value;; esac; done"
        "    < /proc/$$/status > signals;"
        "exec nbdkit -f null",
        NULL};
    g_autoptr(GError) error = NULL;
    g_autoptr(FlServer) server = NULL;
    int leaked = open("leaked", O_RDWR | O_CREAT, 0600);
    sigset_t all, old;

    /* The parent may ignore some signals, like a shell for background jobs. */
    for (int i = 1; i < SIGRTMIN; i++)
        signal(i, SIG_DFL);
    g_setenv("LISTEN_FDNAMES", "ours", TRUE);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    signal(SIGPIPE, SIG_IGN);
    server = fl_server_new_command(argv, &error);
    g_assert_no_error(error);
    nbd_close(connect_to(server, "", NULL));
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    g_unsetenv("LISTEN_FDNAMES");
    close(leaked);

    run("grep -q ' 3 -> socket' fds; test $(grep -c socket fds) = 1; ! grep leaked fds");
    run("test \"$(cat env)\" = '1 0 '");
    run("read sid pid < session; test $sid = $pid; test $(cat stdin) = /dev/null");
    run("test \"$(echo $(cat signals))\" = '0000000000000000 0000000000000000'");
}

static void test_command_fails(Fixture *fixture, gconstpointer data)
{
    static const char *const absent[] = {"fleecefs-no-such-command", NULL};
    static const char *const folder[] = {"/tmp", NULL};
    static const char *const empty[] = {NULL};
    static const char *const ends[] = {
        "sh", "-c", "echo 'sh: warning: strange' >&2; echo >&2; echo 'sh: no disk' >&2; exit 7",
        NULL};
    static const char *const killed[] = {"sh", "-c", "kill -9 $$", NULL};
    g_autoptr(GError) error = NULL;
    FlServer *server;

    g_assert_null(fl_server_new_command(absent, &error));
    assert_error_has(error, "cannot run fleecefs-no-such-command: no such program");
    g_clear_error(&error);
    g_assert_null(fl_server_new_command(folder, &error));
    assert_error_has(error, "cannot run /tmp: ");
    g_clear_error(&error);
    g_assert_null(fl_server_new_command(empty, &error));
    g_assert_error(error, FL_ERROR, FL_ERROR_USAGE);
    g_clear_error(&error);

    server = fl_server_new_command(ends, &error);
    g_assert_no_error(error);
    while (fl_server_check(server, FL_SERVER_CHECK_MS, &error))
        ;
    g_assert_cmpstr(error->message, ==, "sh ended with status 7: sh: no disk");
    g_clear_error(&error);
    g_assert_false(fl_server_check(server, FL_SERVER_CHECK_MS, NULL));
    fl_server_free(server);

    server = fl_server_new_command(killed, &error);
    g_assert_no_error(error);
    while (fl_server_check(server, FL_SERVER_CHECK_MS, &error))
        ;
    g_assert_cmpstr(error->message, ==, "sh was killed by signal 9");
    fl_server_free(server);
}

static int open_pidfd(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static void await_end(int pidfd)
{
    struct pollfd fd = {.fd = pidfd, .events = POLLIN};

    g_assert_cmpint(poll(&fd, 1, 30000), ==, 1);
    close(pidfd);
}

static pid_t read_pid(const char *file)
{
    g_autofree char *text = NULL;

    while (!g_file_get_contents(file, &text, NULL, NULL) || strchr(text, '\n') == NULL)
        g_clear_pointer(&text, g_free);
    return (pid_t)atoi(text);
}

/* A server that ignores signals, with a child; both write more than a pipe holds. */
static void test_stubborn_command(Fixture *fixture, gconstpointer data)
{
    static const char *const argv[] = {"sh", "-c",
                                       "trap '' TERM; sleep 1000 & echo $! > child;"
                                       "yes | head -c 1000000 >&2; echo done > wrote;"
                                       "while :; do sleep 1000; done",
                                       NULL};
    g_autoptr(GError) error = NULL;
    FlServer *server = fl_server_new_command(argv, &error);
    int child;

    g_assert_no_error(error);
    run("while ! test -s wrote; do sleep 0.01; done");
    child = open_pidfd(read_pid("child"));
    g_assert_true(fl_server_check(server, FL_SERVER_CHECK_MS, NULL));
    fl_server_free(server);
    await_end(child);
}

/* A process that keeps the pipe open must not block. */
static void test_escaped_child(Fixture *fixture, gconstpointer data)
{
    static const char *const argv[] = {"sh", "-c",
                                       "setsid sh -c 'echo $$ > child; exec sleep 1000' &"
                                       "while ! test -s child; do :; done; exit 3",
                                       NULL};
    g_autoptr(GError) error = NULL;
    FlServer *server = fl_server_new_command(argv, &error);

    g_assert_no_error(error);
    while (fl_server_check(server, FL_SERVER_CHECK_MS, &error))
        ;
    g_assert_cmpstr(error->message, ==, "sh ended with status 3");
    fl_server_free(server);
    kill(read_pid("child"), SIGKILL);
}

/* The parent is killed: the kernel ends the server. */
static void test_killed_parent(Fixture *fixture, gconstpointer data)
{
    static const char *const argv[] = {"nbdkit", "-f", "null", NULL};

    run("qemu-img create -q -f qcow2 d.qcow2 1M");
    for (int i = 0; i < 2; i++) {
        int channel[2], pidfd;
        pid_t parent, server_pid;

        g_assert_no_errno(pipe(channel));
        parent = fork();
        if (parent == 0) {
            FlServer *server = i == 0 ? fl_image_daemon_new("d.qcow2", NULL, NULL)->server
                                      : fl_server_new_command(argv, NULL);
            server_pid = server != NULL ? fl_server_pid(server) : -1;
            if (write(channel[1], &server_pid, sizeof server_pid) < 0)
                _exit(1);
            for (;;)
                pause();
        }
        g_assert_cmpint(read(channel[0], &server_pid, sizeof server_pid), ==, sizeof server_pid);
        g_assert_cmpint(server_pid, >, 0);
        pidfd = open_pidfd(server_pid);
        g_assert_cmpint(pidfd, >=, 0);
        kill(parent, SIGKILL);
        waitpid(parent, NULL, 0);
        await_end(pidfd);
        close(channel[0]);
        close(channel[1]);
    }
}

int main(int argc, char **argv)
{
    static const Test tests[] = {
        {"/server/command/nbdkit", test_command},
        {"/server/command/inherited", test_inherited},
        {"/server/command/fails", test_command_fails},
        {"/server/command/stubborn", test_stubborn_command},
        {"/server/command/escaped-child", test_escaped_child},
        {"/server/killed-parent", test_killed_parent},
    };

    return run_tests(argc, argv, tests, G_N_ELEMENTS(tests));
}
