/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The client against a minimal scripted agent. */
#include "qemu/agent.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Timeouts, milliseconds: LONG if an answer is expected, SHORT if none is. */
#define LONG  10000
#define SHORT 20

typedef struct {
    int fd;
    GThread *thread;
    const char *const *script; /* an answer for each command but sync; "" for none */
    const char *first;         /* bytes sent before the first answer */
    int syncs;                 /* counted */
} Agent;

static void say(Agent *agent, const char *text)
{
    g_assert_cmpint(write(agent->fd, text, strlen(text)), ==, (gssize)strlen(text));
}

static gpointer serve(gpointer data)
{
    Agent *agent = data;
    g_autoptr(GString) in = g_string_new(NULL);
    char buf[512];
    ssize_t n;

    if (agent->first != NULL)
        say(agent, agent->first);
    while ((n = read(agent->fd, buf, sizeof buf)) > 0) {
        char *end;
        g_string_append_len(in, buf, n);
        while ((end = memchr(in->str, '\n', in->len)) != NULL) {
            const char *sync = strstr(in->str, "guest-sync-delimited");
            if (sync != NULL && sync < end) {
                g_autofree char *answer = NULL;
                unsigned id = 0;
                g_assert_cmpint((guchar)in->str[0], ==, 0xFF);
                g_assert_cmpint(sscanf(strstr(in->str, "\"id\":"), "\"id\":%u", &id), ==, 1);
                answer = g_strdup_printf("\xff{\"return\": %u}\n", id);
                say(agent, answer);
                agent->syncs++;
            } else {
                say(agent, *agent->script++);
            }
            g_string_erase(in, 0, end - in->str + 1);
        }
    }
    close(agent->fd);
    return NULL;
}

static FlAgent *start(Agent *agent)
{
    g_autoptr(GError) error = NULL;
    FlAgent *client;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    agent->fd = fds[1];
    agent->thread = g_thread_new("agent", serve, agent);
    client = fl_agent_new_fd(fds[0], "test", LONG, &error);
    g_assert_no_error(error);
    return client;
}

static void stop(Agent *agent, FlAgent *client)
{
    fl_agent_free(client);
    g_thread_join(agent->thread);
}

static void test_freeze_and_thaw(void)
{
    static const char *const script[] = {"{\"return\": 2}\n", "{\"return\": \"frozen\"}\r\n",
                                         "{\"return\": 2}\n", "{\"return\": \"thawed\"}\n", NULL};
    Agent agent = {.script = script};
    FlAgent *client = start(&agent);
    bool frozen = false;

    g_assert_true(fl_agent_freeze(client, LONG, NULL));
    g_assert_true(fl_agent_frozen(client, LONG, &frozen, NULL));
    g_assert_true(frozen);
    g_assert_true(fl_agent_thaw(client, LONG, NULL));
    g_assert_true(fl_agent_frozen(client, LONG, &frozen, NULL));
    g_assert_false(frozen);
    stop(&agent, client);
    g_assert_cmpint(agent.syncs, ==, 1);
}

static void test_stale_answers_are_skipped(void)
{
    static const char *const script[] = {"{\"return\": 2}\n", NULL};
    Agent agent = {.script = script,
                   .first = "\"half\": 1}\n{\"return\": 7}\n\xff{\"return\": 1}\nnonsense\n"};
    FlAgent *client = start(&agent);

    g_assert_true(fl_agent_thaw(client, LONG, NULL));
    stop(&agent, client);
}

/* After a late answer, the next command still gets its own answer. */
static void test_back_in_step(void)
{
    static const char *const script[] = {"", "{\"return\": \"late\"}\n{\"return\": \"frozen\"}\n",
                                         NULL};
    Agent agent = {.script = script};
    FlAgent *client = start(&agent);
    g_autoptr(GError) error = NULL;
    bool frozen = false;

    g_assert_false(fl_agent_freeze(client, SHORT, &error));
    g_assert_nonnull(strstr(error->message, "no answer"));
    g_assert_true(fl_agent_thaw(client, LONG, NULL));
    stop(&agent, client);
    g_assert_cmpint(agent.syncs, ==, 2);
    g_assert_false(frozen);
}

static void test_error_of_the_agent(void)
{
    static const char *const script[] = {
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"is disabled\"}}\n", "[1]\n",
        NULL};
    Agent agent = {.script = script};
    FlAgent *client = start(&agent);
    g_autoptr(GError) error = NULL;

    g_assert_false(fl_agent_freeze(client, LONG, &error));
    g_assert_cmpstr(error->message, ==, "guest agent test: guest-fsfreeze-freeze: is disabled");
    g_clear_error(&error);
    g_assert_false(fl_agent_freeze(client, LONG, &error));
    g_assert_nonnull(strstr(error->message, "it sent JSON that is not an object"));
    stop(&agent, client);
}

/* The guest is untrusted. */
static void test_deep_answer(void)
{
    g_autofree char *nested = g_strnfill(60000, '[');
    g_autofree char *line = g_strconcat(nested, "\n", NULL);
    const char *const script[] = {line, NULL};
    Agent agent = {.script = script};
    FlAgent *client = start(&agent);
    g_autoptr(GError) error = NULL;

    g_assert_false(fl_agent_thaw(client, LONG, &error));
    g_assert_nonnull(strstr(error->message, "more than 1000 levels"));
    stop(&agent, client);
}

static void test_no_agent(void)
{
    g_autoptr(GError) error = NULL;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    g_assert_null(fl_agent_new_fd(fds[0], "test", SHORT, &error));
    g_assert_nonnull(strstr(error->message, "no answer"));
    g_clear_error(&error);
    close(fds[1]);

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    close(fds[1]);
    g_assert_null(fl_agent_new_fd(fds[0], "test", LONG, &error));
    g_clear_error(&error);

    g_assert_null(fl_agent_connect("/nowhere/ga.sock", LONG, &error));
    g_assert_nonnull(strstr(error->message, "/nowhere/ga.sock"));
}

static void test_line_without_end(void)
{
    g_autofree char *flood = g_strnfill(200000, 'x');
    g_autoptr(GError) error = NULL;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    g_assert_cmpint(send(fds[1], flood, strlen(flood), MSG_DONTWAIT), >, 70000);
    g_assert_null(fl_agent_new_fd(fds[0], "test", LONG, &error));
    g_assert_nonnull(strstr(error->message, "without end"));
    close(fds[1]);
}

static gpointer flood_lines(gpointer fd)
{
    static const char line[] = "{\"return\": {}}\n{\"return\": 7}\n";

    while (send(GPOINTER_TO_INT(fd), line, sizeof line - 1, MSG_NOSIGNAL) > 0)
        continue;
    return NULL;
}

/* An endless answer times out although there is always data to read. */
static void test_lines_without_end(void)
{
    g_autoptr(GError) error = NULL;
    GThread *thread;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    thread = g_thread_new("flood", flood_lines, GINT_TO_POINTER(fds[1]));
    g_assert_null(fl_agent_new_fd(fds[0], "test", SHORT, &error));
    g_assert_nonnull(strstr(error->message, "no answer"));
    g_thread_join(thread);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/agent/freeze-and-thaw", test_freeze_and_thaw);
    g_test_add_func("/agent/stale-answers-are-skipped", test_stale_answers_are_skipped);
    g_test_add_func("/agent/back-in-step", test_back_in_step);
    g_test_add_func("/agent/error-of-the-agent", test_error_of_the_agent);
    g_test_add_func("/agent/deep-answer", test_deep_answer);
    g_test_add_func("/agent/no-agent", test_no_agent);
    g_test_add_func("/agent/line-without-end", test_line_without_end);
    g_test_add_func("/agent/lines-without-end", test_lines_without_end);
    return g_test_run();
}
