/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The QMP client, against a peer that misbehaves (a thread) and against a real storage daemon. */
#include "qemu/channel.h"
#include "qemu/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* In a script: wait for a command. */
#define ASKED        "\001"
#define GREETING     "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
#define CAPABILITIES "{\"return\": {}, \"id\": 1}\r\n"
#define READY        GREETING ASKED CAPABILITIES ASKED

/* A peer that follows its script regardless of requests, then closes or waits for the client. */
typedef struct {
    int fd;
    GString *script;
    bool close_after;
} Peer;

static void await_command(int fd)
{
    char c;

    while (read(fd, &c, 1) == 1 && c != '\n')
        ;
}

static void *run_peer(void *opaque)
{
    Peer *peer = opaque;
    const char *at = peer->script->str, *end = at + peer->script->len;
    char c;

    while (at < end) {
        const char *stop = memchr(at, ASKED[0], (size_t)(end - at));
        size_t size = (size_t)((stop != NULL ? stop : end) - at);

        if (size == 0) {
            await_command(peer->fd);
            at++;
            continue;
        }
        ssize_t n = send(peer->fd, at, size, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        at += n;
    }
    if (peer->close_after)
        shutdown(peer->fd, SHUT_RDWR);
    while (read(peer->fd, &c, 1) > 0)
        ;
    close(peer->fd);
    g_string_free(peer->script, TRUE);
    g_free(peer);
    return NULL;
}

static int start_peer(GString *script, bool close_after, GThread **thread)
{
    Peer *peer = g_new0(Peer, 1);
    int fds[2];

    g_assert_no_errno(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
    peer->fd = fds[1];
    peer->script = script;
    peer->close_after = close_after;
    *thread = g_thread_new("peer", run_peer, peer);
    return fds[0];
}

static void write_all(int fd, const char *text)
{
    g_assert_cmpint(write(fd, text, strlen(text)), ==, (ssize_t)strlen(text));
}

static void assert_error_has(const GError *error, const char *part)
{
    g_assert_nonnull(error);
    g_assert_null(strchr(error->message, '\n'));
    if (strstr(error->message, part) == NULL)
        g_error("'%s' is not in: %s", part, error->message);
}

/* The client's error for a peer that sends SCRIPT and then waits, when calling COMMAND (NULL: when
 * connecting). */
static GError *failure_of_n(GString *script, unsigned timeout_ms, const char *command)
{
    GThread *thread;
    GError *error = NULL;
    int fd = start_peer(script, false, &thread);
    FlQmp *qmp = fl_qmp_new_fd(fd, "peer", command != NULL ? 20000 : timeout_ms, &error);

    if (command != NULL) {
        g_assert_no_error(error);
        fl_qmp_set_timeout(qmp, timeout_ms);
        g_assert_false(fl_qmp_call(qmp, command, NULL, NULL, &error));
    } else {
        g_assert_null(qmp);
    }
    fl_qmp_free(qmp);
    g_thread_join(thread);
    return error;
}

static GError *failure_of(const char *script, unsigned timeout_ms, const char *command)
{
    return failure_of_n(g_string_new(script), timeout_ms, command);
}

static void test_greeting(void)
{
    static const struct {
        const char *script, *expect;
    } cases[] = {
        {"", "another client is connected to this monitor"},
        {"{\"QMP\"", "no QMP greeting in 0.1 s"},
        {"{}", "peer: it is not a QMP monitor"},
        {"{\"QMP\": 1}", "it is not a QMP monitor"},
        {"QEMU 7.2 monitor - type 'help' for more information\r\n(qemu) ", "not JSON"},
        {"[1]", "not an object"},
        {GREETING, "no answer to qmp_capabilities"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = failure_of(cases[i].script, 100, NULL);
        assert_error_has(error, cases[i].expect);
        g_assert_true(error->domain == FL_ERROR);
    }
}

static void test_broken_messages(void)
{
    static const struct {
        const char *message, *expect;
    } cases[] = {
        {"", "peer: no answer to query-block in 0.1 s"},
        {"{\"return\": ", "no answer"},
        {"{\"id\": 2}", "not QMP"},
        {"{\"error\": 1, \"id\": 2}", "not QMP"},
        {"{\"return\": {}, \"id\": 3}", "no answer"},
        {"{\"return\": {}, \"id\": 0}", "no answer"},
        {"{\"return\": {}, \"id\": \"2\"}", "no answer"},
        {"{\"return\": {}, \"id\": {}}", "no answer"},
        {"{\"return\": {}, \"id\": 1}", "no answer"}, /* late: to an earlier command */
        {GREETING, "no answer"},                      /* for another client */
        {"}", "not JSON"},
        {"\"{}\"", "not JSON"},
        {"{\"return\": [}]", "broken JSON"},
        {"{nonsense}", "broken JSON"},
        {"{\"return\": \"\xff\xfe\", \"id\": 2}", "not UTF-8"},
        {"{\"return\": \"\xed\xa0\x80\", \"id\": 2}", "not UTF-8"},
        {"{\"event\": 1}", "not QMP"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *script = g_strconcat(READY, cases[i].message, NULL);
        g_autoptr(GError) error = failure_of(script, 100, "query-block");
        assert_error_has(error, cases[i].expect);
        g_assert_true(error->domain == FL_ERROR);
    }
}

static void test_nul_byte(void)
{
    static const char message[] = READY "{\"return\": \"\0\", \"id\": 2}";
    g_autoptr(GError) error =
        failure_of_n(g_string_new_len(message, sizeof message - 1), 1000, "query-block");

    assert_error_has(error, "not UTF-8");
}

static void append_n(GString *script, const char *text, unsigned times)
{
    while (times-- > 0)
        g_string_append(script, text);
}

static void test_depth(void)
{
    GString *deepest = g_string_new(READY "{\"id\": 2, \"return\": ");
    GString *deeper = g_string_new(READY "{\"id\": 2, \"return\": ");
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = NULL;
    GThread *thread;
    FlQmp *qmp;

    append_n(deepest, "[", FL_JSON_MAX_DEPTH - 1);
    append_n(deepest, "]", FL_JSON_MAX_DEPTH - 1);
    g_string_append(deepest, "}");
    qmp = fl_qmp_new_fd(start_peer(deepest, false, &thread), "peer", 5000, &error);
    g_assert_no_error(error);
    g_assert_true(fl_qmp_call(qmp, "query-block", NULL, &reply, &error));
    g_assert_true(JSON_NODE_HOLDS_ARRAY(reply));
    fl_qmp_free(qmp);
    g_thread_join(thread);

    append_n(deeper, "[", 1000000);
    error = failure_of_n(deeper, 5000, "query-block");
    assert_error_has(error, "more than 1000 levels");
}

static void test_too_long(void)
{
    GString *script = g_string_sized_new(FL_CHANNEL_MAX_BYTES + 200000);
    size_t prefix;
    g_autoptr(GError) error = NULL;

    g_string_append(script, READY "{\"return\": \"");
    prefix = script->len;
    g_string_set_size(script, FL_CHANNEL_MAX_BYTES + 200000);
    memset(script->str + prefix, 'x', script->len - prefix);
    error = failure_of_n(script, 60000, "query-block");
    assert_error_has(error, "a message of more than 64 MiB");
}

static void test_closes(void)
{
    static const char *const scripts[] = {"", GREETING, READY};

    for (size_t i = 0; i < G_N_ELEMENTS(scripts); i++) {
        g_autoptr(GError) error = NULL;
        GThread *thread;
        int fd = start_peer(g_string_new(scripts[i]), true, &thread);
        FlQmp *qmp = fl_qmp_new_fd(fd, "peer", 5000, &error);

        if (i == 2) {
            g_assert_no_error(error);
            g_assert_false(fl_qmp_call(qmp, "query-block", NULL, NULL, &error));
            g_clear_error(&error);
            /* The failure is permanent, and known without using the socket again. */
            g_assert_false(fl_qmp_dispatch(qmp, 0, &error));
        }
        assert_error_has(error, "peer: ");
        fl_qmp_free(qmp);
        g_thread_join(thread);
    }
}

/* A peer that never reads: a command larger than the socket buffer must not hang. */
static void test_never_reads(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *long_text = g_strnfill(8 << 20, 'x');
    int fds[2];
    FlQmp *qmp;

    g_assert_no_errno(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
    write_all(fds[1], GREETING CAPABILITIES);
    qmp = fl_qmp_new_fd(fds[0], "peer", 20000, &error);
    g_assert_no_error(error);
    fl_qmp_set_timeout(qmp, 100);
    g_assert_false(fl_qmp_call(qmp, "x", fl_qmp_args(fl_qmp_string("a", long_text)), NULL, &error));
    assert_error_has(error, "does not read");
    fl_qmp_free(qmp);
    close(fds[1]);
}

static void count_event(const char *event, JsonObject *data, void *opaque)
{
    GString *seen = opaque;

    g_string_append_printf(seen, "%s/%u ", event, json_object_get_size(data));
}

/* Events before, between and after replies, pretty printing, braces in strings, a lost reply. */
static void test_events(void)
{
    static const char script[] = READY "{\"event\": \"STOP\", \"timestamp\": {}}\r\n"
                                       "{\r\n    \"event\": \"RESUME\",\r\n    \"data\": {\r\n"
                                       "        \"a\": \"}\\\"{\"\r\n    }\r\n}\r\n"
                                       "{\"return\": {\"old\": 1}, \"id\": 1}"
                                       "{\"return\": {\"new\": 1}, \"id\": 2}"
                                       "{\"event\": \"RESET\"}"
                                       "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": "
                                       "\"no\\nsuch\"}, \"id\": 2}"
                                       "{\"error\": {\"class\": \"New\", \"desc\": \"it\"}}";
    g_autoptr(GString) seen = g_string_new(NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = NULL;
    GThread *thread;
    FlQmp *qmp =
        fl_qmp_new_fd(start_peer(g_string_new(script), false, &thread), "peer", 5000, &error);

    g_assert_no_error(error);
    fl_qmp_set_event_handler(qmp, count_event, seen);
    g_assert_true(fl_qmp_call(qmp, "x", NULL, &reply, &error));
    g_assert_true(json_object_has_member(json_node_get_object(reply), "new"));
    fl_qmp_free(qmp);
    g_thread_join(thread);
    g_assert_true(g_str_has_prefix(seen->str, "STOP/0 RESUME/1 "));
}

static void test_error_classes(void)
{
    static const struct {
        const char *message;
        int code;
        const char *text;
    } cases[] = {
        {"{\"error\": {\"class\": \"GenericError\", \"desc\": \"a\\nb\"}, \"id\": 2}",
         FL_QMP_ERROR_GENERIC, "a b"},
        {"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"b\"}, \"id\": 2}",
         FL_QMP_ERROR_COMMAND_NOT_FOUND, "b"},
        {"{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"c\"}, \"id\": 2}",
         FL_QMP_ERROR_DEVICE_NOT_FOUND, "c"},
        {"{\"error\": {\"class\": \"New\", \"desc\": \"d\"}}", FL_QMP_ERROR_OTHER, "d"},
        {"{\"error\": {}, \"id\": 2}", FL_QMP_ERROR_OTHER, "unknown error"},
        {"{\"error\": {\"class\": 1, \"desc\": []}, \"id\": 2}", FL_QMP_ERROR_OTHER,
         "unknown error"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *script = g_strconcat(READY, cases[i].message, NULL);
        g_autoptr(GError) error = failure_of(script, 5000, "x");
        g_assert_error(error, FL_QMP_ERROR, cases[i].code);
        g_assert_cmpstr(error->message, ==, cases[i].text);
    }
}

static void test_dispatch(void)
{
    g_autoptr(GString) seen = g_string_new(NULL);
    g_autoptr(GError) error = NULL;
    int fds[2];
    FlQmp *qmp;

    g_assert_no_errno(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
    write_all(fds[1], GREETING CAPABILITIES);
    qmp = fl_qmp_new_fd(fds[0], "peer", 1000, &error);
    g_assert_no_error(error);
    fl_qmp_set_event_handler(qmp, count_event, seen);

    g_assert_true(fl_qmp_dispatch(qmp, 0, &error));
    write_all(fds[1], "{\"event\": \"A\"}{\"eve");
    g_assert_true(fl_qmp_dispatch(qmp, 5000, &error));
    g_assert_cmpstr(seen->str, ==, "A/0 ");
    write_all(fds[1], "nt\": \"B\"}");
    g_assert_true(fl_qmp_dispatch(qmp, 5000, &error));
    g_assert_cmpstr(seen->str, ==, "A/0 B/0 ");
    close(fds[1]);
    g_assert_false(fl_qmp_dispatch(qmp, 5000, &error));
    assert_error_has(error, "closed the connection");
    fl_qmp_free(qmp);
}

static void test_args(void)
{
    g_autoptr(JsonNode) node = fl_qmp_args(
        fl_qmp_string("s", "a\"b\n"), fl_qmp_bool("b", true), fl_qmp_int("i", G_MAXINT64),
        fl_qmp_string("left out", NULL), fl_qmp_node("n", json_node_init_null(json_node_alloc())));
    g_autofree char *text = json_to_string(node, FALSE);

    g_assert_cmpstr(text, ==,
                    "{\"s\":\"a\\\"b\\n\",\"b\":true,\"i\":9223372036854775807,\"n\":null}");
}

static void test_cannot_connect(void)
{
    g_autofree char *dir = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    g_autofree char *absent = g_build_filename(dir, "absent", NULL);
    g_autofree char *file = g_build_filename(dir, "file", NULL);
    g_autoptr(GError) error = NULL;

    g_assert_null(fl_qmp_connect(absent, 1000, &error));
    assert_error_has(error, "No such file");
    assert_error_has(error, absent);
    g_clear_error(&error);

    g_assert_true(g_file_set_contents(file, "", 0, NULL));
    g_assert_null(fl_qmp_connect(file, 1000, &error));
    assert_error_has(error, "no process listens there");

    g_remove(file);
    g_rmdir(dir);
}

#define STORAGE_DAEMON "qemu-storage-daemon"
#define VM             "qemu-system-x86_64"

/* A real QEMU on a socket whose path is longer than sun_path. */
typedef struct {
    GPid pid;
    char *dir, *path;
} Daemon;

/* A failing test aborts; its children must not outlive it. */
static void die_with_us(void *unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void daemon_start(Daemon *daemon, gconstpointer program)
{
    g_autofree char *name = g_strnfill(120, 'd');
    g_autofree char *chardev = NULL, *fd_path = NULL;
    g_autoptr(GError) error = NULL;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), dir;

    daemon->dir = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    g_free(g_steal_pointer(&daemon->path));
    daemon->path = g_build_filename(daemon->dir, name, "s", NULL);
    fd_path = g_build_filename(daemon->dir, name, NULL);
    g_assert_no_errno(g_mkdir(fd_path, 0700));
    dir = open(fd_path, O_PATH | O_CLOEXEC);
    g_assert_no_errno(dir);
    g_snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/s", dir);
    g_assert_no_errno(bind(listener, (struct sockaddr *)&address, sizeof address));
    g_assert_no_errno(listen(listener, 4));
    close(dir);

    chardev = g_strdup_printf("socket,id=m,server=on,wait=off,fd=%d", listener);
    /* clang-format off */
    const char *const storage_daemon[] = {STORAGE_DAEMON, "--chardev", chardev, "--monitor",
                                          "chardev=m", NULL};
    const char *const vm[] = {VM, "-machine", "none", "-nodefaults", "-display", "none",
                              "-chardev", chardev, "-mon", "chardev=m,mode=control", NULL};
    /* clang-format on */
    g_spawn_async_with_pipes_and_fds(NULL, g_str_equal(program, VM) ? vm : storage_daemon, NULL,
                                     G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, die_with_us,
                                     NULL, -1, -1, -1, &listener, &listener, 1, &daemon->pid, NULL,
                                     NULL, NULL, &error);
    g_assert_no_error(error);
    close(listener);
}

static void daemon_stop(Daemon *daemon, gconstpointer data)
{
    g_autofree char *sub = g_path_get_dirname(daemon->path);

    kill(daemon->pid, SIGTERM);
    waitpid(daemon->pid, NULL, 0);
    g_remove(daemon->path);
    g_rmdir(sub);
    g_rmdir(daemon->dir);
    g_free(daemon->path);
    g_free(daemon->dir);
}

/* QEMU 7.2 may drop or garble input while it still serves a client that has gone, and about once in
 * a thousand starts leaves its first client without an answer. */
static FlQmp *connect_real(const Daemon *daemon)
{
    FlQmp *qmp;

    do
        qmp = fl_qmp_connect(daemon->path, 5000, NULL);
    while (qmp == NULL);
    return qmp;
}

static void test_real(Daemon *daemon, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = NULL, nodes = NULL;
    g_autoptr(FlQmp) qmp = connect_real(daemon);
    JsonObject *version;

    g_assert_true(fl_qmp_call(qmp, "query-version", NULL, &reply, &error));
    version = json_object_get_object_member(json_node_get_object(reply), "qemu");
    g_assert_cmpint(json_object_get_int_member(version, "major"), >=, 7);

    g_assert_true(fl_qmp_call(
        qmp, "blockdev-add",
        fl_qmp_args(fl_qmp_string("driver", "null-co"), fl_qmp_string("node-name", "n"),
                    fl_qmp_int("size", (gint64)1 << 40), fl_qmp_bool("read-zeroes", true)),
        NULL, &error));
    g_assert_true(fl_qmp_call(qmp, "query-named-block-nodes",
                              fl_qmp_args(fl_qmp_bool("flat", true)), &nodes, &error));
    g_assert_cmpint(json_array_get_length(json_node_get_array(nodes)), ==, 1);

    g_assert_false(fl_qmp_call(qmp, "blockdev-del",
                               fl_qmp_args(fl_qmp_string("node-name", "absent")), NULL, &error));
    g_assert_error(error, FL_QMP_ERROR, FL_QMP_ERROR_GENERIC);
    assert_error_has(error, "absent");
    g_clear_error(&error);
    g_assert_false(fl_qmp_call(qmp, "no-such-command", NULL, NULL, &error));
    g_assert_error(error, FL_QMP_ERROR, FL_QMP_ERROR_COMMAND_NOT_FOUND);
}

static void test_real_busy(Daemon *daemon, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    FlQmp *first = connect_real(daemon);

    g_assert_null(fl_qmp_connect(daemon->path, 100, &error));
    assert_error_has(error, "another client is connected");
    g_clear_error(&error);

    fl_qmp_free(first);
    fl_qmp_free(connect_real(daemon));
}

static void test_real_fd(Daemon *daemon, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = NULL;
    g_autoptr(FlQmp) qmp = connect_real(daemon);
    g_autofree char *name = NULL;
    int fd = g_file_open_tmp("fleecefs-test-XXXXXX", &name, NULL);

    g_assert_no_errno(ftruncate(fd, 1 << 20));
    g_assert_true(
        fl_qmp_call_fd(qmp, "add-fd", fl_qmp_args(fl_qmp_int("fdset-id", 7)), fd, &reply, &error));
    g_assert_no_errno(fcntl(fd, F_GETFD));
    close(fd);
    g_remove(name);
    g_assert_true(
        fl_qmp_call(qmp, "blockdev-add",
                    fl_qmp_args(fl_qmp_string("driver", "file"), fl_qmp_string("node-name", "f"),
                                fl_qmp_string("filename", "/dev/fdset/7")),
                    NULL, &error));
}

static void test_real_gone(Daemon *daemon, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlQmp) qmp = connect_real(daemon);

    kill(daemon->pid, SIGKILL);
    while (fl_qmp_dispatch(qmp, 20000, &error))
        ;
    assert_error_has(error, "closed the connection");
}

static void add_real(const char *path, const char *program, void (*test)(Daemon *, gconstpointer))
{
    g_autofree char *found = g_find_program_in_path(program);

    if (found != NULL)
        g_test_add(path, Daemon, program, daemon_start, test, daemon_stop);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qmp/greeting", test_greeting);
    g_test_add_func("/qmp/broken-messages", test_broken_messages);
    g_test_add_func("/qmp/nul-byte", test_nul_byte);
    g_test_add_func("/qmp/depth", test_depth);
    g_test_add_func("/qmp/too-long", test_too_long);
    g_test_add_func("/qmp/closes", test_closes);
    g_test_add_func("/qmp/never-reads", test_never_reads);
    g_test_add_func("/qmp/events", test_events);
    g_test_add_func("/qmp/error-classes", test_error_classes);
    g_test_add_func("/qmp/dispatch", test_dispatch);
    g_test_add_func("/qmp/args", test_args);
    g_test_add_func("/qmp/cannot-connect", test_cannot_connect);
    add_real("/qmp/real/calls", STORAGE_DAEMON, test_real);
    add_real("/qmp/real/busy", STORAGE_DAEMON, test_real_busy);
    add_real("/qmp/real/fd", VM, test_real_fd);
    add_real("/qmp/real/gone", STORAGE_DAEMON, test_real_gone);
    return g_test_run();
}
