/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors, sizes, file names, foreign text, rates, and the clients of a socket. */
#include "util/budget.h"
#include "util/clients.h"
#include "util/error.h"
#include "util/keeper.h"
#include "util/name.h"
#include "util/printable.h"
#include "util/rate.h"
#include "util/size.h"

#include <gio/gio.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_error(void)
{
    g_autoptr(GError) failed = NULL, usage = NULL;
    g_autoptr(GError) other = g_error_new_literal(G_IO_ERROR, G_IO_ERROR_NOT_FOUND, "gone");

    g_assert_false(fl_fail(&failed, "%s: first\r\nsecond\n", "nbd://h"));
    g_assert_error(failed, FL_ERROR, FL_ERROR_FAILED);
    g_assert_cmpstr(failed->message, ==, "nbd://h: first  second");
    g_assert_false(fl_fail_usage(&usage, "no"));
    g_assert_cmpint(fl_error_exit_status(failed), ==, 1);
    g_assert_cmpint(fl_error_exit_status(usage), ==, 2);
    g_assert_cmpint(fl_error_exit_status(other), ==, 1);
    g_assert_false(fl_fail(NULL, "no process listens"));
}

static void test_sizes(void)
{
    static const struct {
        const char *text;
        uint64_t size;
    } good[] = {
        {"0", 0},
        {"1", 1},
        {"0512", 512},
        {"64K", 65536},
        {"64k", 65536},
        {"64KiB", 65536},
        {"64KB", 65536},
        {"1M", 1 << 20},
        {"3g", UINT64_C(3) << 30},
        {"2T", UINT64_C(2) << 40},
        {"8191P", UINT64_C(8191) << 50},
        {"7E", UINT64_C(7) << 60},
        {"9223372036854775807", INT64_MAX},
    };
    static const char *const bad[] = {
        "",
        " ",
        "K",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1 K",
        "1.5G",
        "1KK",
        "0x10",
        "1KiX",
        "1i",
        "ten",
        "8E",
        "16E",
        "8192P",
        "9223372036854775808",
        "1\n",
        "1,5",
        "1B",
        "1KiBB",
        "18446744073709551617",
        "99999999999999999999999",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(GError) error = NULL;
        uint64_t size = 42;

        g_assert_true(fl_size_parse(good[i].text, &size, &error));
        g_assert_no_error(error);
        g_assert_cmpuint(size, ==, good[i].size);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        uint64_t size = 42;

        g_test_message("'%s'", bad[i]);
        g_assert_false(fl_size_parse(bad[i], &size, &error));
        g_assert_error(error, FL_ERROR, FL_ERROR_USAGE);
        g_assert_cmpuint(size, ==, 42);
    }
}

static void test_seconds(void)
{
    static const char *const bad[] = {"", "-1", "1s", "1.5", " 1", "1000000001", "x"};
    unsigned seconds = 42;

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(fl_seconds_parse(bad[i], &seconds, &error));
        g_assert_error(error, FL_ERROR, FL_ERROR_USAGE);
        g_assert_cmpuint(seconds, ==, 42);
    }
    g_assert_true(fl_seconds_parse("1000000000", &seconds, NULL));
    g_assert_cmpuint(seconds, ==, 1000000000);
    g_assert_true(fl_seconds_parse("0", &seconds, NULL));
    g_assert_cmpuint(seconds, ==, 0);
}

static void test_arithmetic(void)
{
    g_assert_false(fl_is_power_of_two(0));
    g_assert_true(fl_is_power_of_two(1));
    g_assert_false(fl_is_power_of_two(3));
    g_assert_true(fl_is_power_of_two(UINT64_C(1) << 63));
    g_assert_cmpuint(fl_div_up(0, 5), ==, 0);
    g_assert_cmpuint(fl_div_up(5, 5), ==, 1);
    g_assert_cmpuint(fl_div_up(6, 5), ==, 2);
    g_assert_cmpuint(fl_div_up(UINT64_MAX, 2), ==, UINT64_C(1) << 63);
}

static void test_names(void)
{
    static const struct {
        const char *name, *file;
    } cases[] = {
        {"", "default"},
        {"disk0", "disk0"},
        {"a.b", "a.b"},
        {".", "%2E"},
        {"..", "%2E."},
        {".hidden", "%2Ehidden"},
        {"a/b", "a%2Fb"},
        {"/", "%2F"},
        {"100%", "100%25"},
        {"a\nb", "a%0Ab"},
        {"\x7f", "%7F"},
        {"\xff\xfe", "%FF%FE"},
        {"caf\xc3\xa9 \xe2\x98\x95", "caf\xc3\xa9 \xe2\x98\x95"},
        {"\xc2\x85", "%C2%85"}, /* a control character of two bytes */
        {"\xc3", "%C3"},        /* half a character */
        {"\xc0\xaf", "%C0%AF"}, /* an overlong '/' */
        {"\xed\xa0\x80", "%ED%A0%80"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *file = fl_name_encode(cases[i].name);
        g_assert_cmpstr(file, ==, cases[i].file);
    }
}

static void assert_safe(const char *file)
{
    g_assert_cmpuint(strlen(file), >, 0);
    g_assert_cmpuint(strlen(file), <=, FL_NAME_MAX);
    g_assert_true(g_utf8_validate(file, -1, NULL));
    g_assert_null(strchr(file, '/'));
    g_assert_cmpint(file[0], !=, '.');
    for (const char *p = file; *p != '\0'; p = g_utf8_next_char(p))
        g_assert_false(g_unichar_iscntrl(g_utf8_get_char(p)));
    /* A '%' is always whole: %XX, or the hash at the end. */
    for (const char *p = strchr(file, '%'); p != NULL; p = strchr(p + 1, '%'))
        g_assert_true(g_ascii_isxdigit(p[1]) && g_ascii_isxdigit(p[2]));
}

/* Names of any bytes give safe and distinct file names. */
static void test_hostile_names(void)
{
    const char *given = g_getenv("SEED");
    guint32 seed = given != NULL ? (guint32)g_ascii_strtoull(given, NULL, 10) : g_random_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    static const char tricky[] = "%./\n\xc3\xa9\xe2\x98\x95\xff"
                                 "2Fa";

    g_test_message("SEED=%u", seed);
    for (unsigned i = 0; i < 20000; i++) {
        size_t length = i % 50 == 0 ? 4096 : (size_t)g_rand_int_range(rand, 1, 260);
        char *name = g_malloc(length + 1), *file;
        const char *before;

        for (size_t j = 0; j < length; j++)
            name[j] = i % 2 == 0 ? (char)g_rand_int_range(rand, 1, 256)
                                 : tricky[g_rand_int_range(rand, 0, sizeof tricky - 1)];
        name[length] = '\0';
        file = fl_name_encode(name);
        assert_safe(file);
        before = g_hash_table_lookup(seen, file);
        if (before != NULL)
            g_assert_cmpstr(before, ==, name);
        g_hash_table_replace(seen, file, name);
    }
}

/* Cut where a %XX or a character straddles the limit. */
static void test_long_names(void)
{
    for (size_t length = 150; length < 260; length++) {
        for (unsigned kind = 0; kind < 3; kind++) {
            g_autoptr(GString) a = g_string_new(NULL);
            g_autoptr(GString) b = NULL;
            g_autofree char *file_a = NULL, *file_b = NULL;

            while (a->len < length)
                g_string_append(a, kind == 0 ? "x" : kind == 1 ? "/" : "\xe2\x98\x95");
            b = g_string_new(a->str);
            g_string_append_c(b, 'z');
            file_a = fl_name_encode(a->str);
            file_b = fl_name_encode(b->str);
            assert_safe(file_a);
            assert_safe(file_b);
            g_assert_cmpstr(file_a, !=, file_b);
        }
    }
}

static void test_hash(void)
{
    /* Inodes and cut names depend on it: it must never change. */
    g_assert_cmphex(fl_name_hash("", NULL), ==, 0xaf63bd4c8601b7df);
    g_assert_cmphex(fl_name_hash("ab", "c", NULL), !=, fl_name_hash("a", "bc", NULL));
    g_assert_cmphex(fl_name_hash("a", "", NULL), !=, fl_name_hash("a", NULL));
}

static void test_printable(void)
{
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"", ""},
        {"a \"b\" \\ 100%", "a \"b\" \\ 100%"},
        {"\u00e4 \u2603 \U0001f427", "\u00e4 \u2603 \U0001f427"},
        {"two\r\nlines\tand\u2028more", "two  lines and more"},
        {"\033[2J\033]0;title\a\x7f", "?[2J?]0;title??"},
        {"\xc2\x9bK", "?K"},                      /* CSI in one character */
        {"\u202egpj.exe\u2066", "?gpj.exe?"},     /* right to left */
        {"\x9bK\xff\xc3", "\ufffdK\ufffd\ufffd"}, /* not UTF-8 */
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *shown = fl_printable(cases[i].text);

        g_assert_cmpstr(shown, ==, cases[i].shown);
    }
}

static void test_rate(void)
{
    FlRate rate = {0};
    gint64 second = G_USEC_PER_SEC, now = 1000 * second;

    g_assert_cmpuint(fl_rate_get(&rate, now), ==, 0);
    fl_rate_add(&rate, 700, now);
    g_assert_cmpuint(fl_rate_get(&rate, now), ==, 700);
    g_assert_cmpuint(fl_rate_get(&rate, now + second), ==, 700);
    g_assert_cmpuint(fl_rate_get(&rate, now + 2 * second), ==, 350);
    g_assert_cmpuint(fl_rate_get(&rate, now + FL_RATE_SECONDS * second), ==, 0);
    /* Long after, all slots are outdated. */
    for (int i = 0; i < 1000; i++) {
        now += second / 10;
        fl_rate_add(&rate, 50, now);
    }
    g_assert_cmpuint(fl_rate_get(&rate, now), >=, 475);
    g_assert_cmpuint(fl_rate_get(&rate, now), <=, 525);
    g_assert_cmpuint(fl_rate_get(&rate, now + 3600 * second), ==, 0);
    /* The maximum. */
    for (int i = 0; i < 4; i++)
        fl_rate_add(&rate, UINT64_MAX / 8, now + 7200 * second);
    g_assert_cmpuint(fl_rate_get(&rate, now + 7200 * second), >, UINT64_MAX / 4);
}

static void test_budget(void)
{
    g_autoptr(FlBudget) budget = fl_budget_new(100);

    g_assert_true(fl_budget_take(budget, 40, 50));
    g_assert_false(fl_budget_take(budget, 11, 50));
    g_assert_true(fl_budget_take(budget, 0, 40));
    g_assert_false(fl_budget_take(budget, 0, 39));
    g_assert_false(fl_budget_take(budget, UINT64_MAX, UINT64_MAX));
    g_assert_true(fl_budget_take(budget, 60, UINT64_MAX));
    g_assert_false(fl_budget_take(budget, 1, UINT64_MAX));
    fl_budget_give_back(budget, 30);
    g_assert_false(fl_budget_take(budget, 31, UINT64_MAX));
    g_assert_true(fl_budget_take(budget, 30, UINT64_MAX));
}

/* Starts a process that listens at PATH, and disconnects its first client at once. */
static pid_t start_server(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    char byte;
    pid_t pid;

    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    g_assert_cmpint(bind(listener, (struct sockaddr *)&address, sizeof address), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        /* Clients see the credentials of the process that called listen(). */
        listen(listener, 8);
        int client = accept(listener, NULL, NULL);

        (void)!read(client, &byte, 1);
        close(client);
        pause();
        _exit(0);
    }
    close(listener);
    return pid;
}

/* Starts a process that connects to PATH; returns when it has. */
static pid_t start_client(const char *path)
{
    int ready[2];
    char byte;
    pid_t pid;

    g_assert_cmpint(pipe(ready), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        if (fl_unix_connect(path) >= 0)
            (void)!write(ready[1], "", 1);
        pause();
        _exit(0);
    }
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void test_clients(void)
{
    g_autofree char *folder = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "a socket", NULL);
    pid_t pids[2];
    int list, own;

    g_assert_cmpint(fl_clients_open(path, 1000), ==, -1);
    g_assert_cmpint(fl_clients_count(-1, path), ==, -1);
    pids[0] = start_server(path);
    while ((list = fl_clients_open(path, 60000)) < 0)
        g_thread_yield(); /* it does not listen yet */
    g_assert_cmpint(fl_clients_count(list, path), ==, 0);
    own = fl_unix_connect(path);
    g_assert_cmpint(own, >=, 0);
    g_assert_cmpint(fl_clients_count(list, path), ==, 0);
    pids[1] = start_client(path);
    g_assert_cmpint(fl_clients_count(list, path), ==, 1);
    g_assert_cmpint(fl_clients_count(list, folder), ==, -1);
    for (size_t i = 0; i < G_N_ELEMENTS(pids); i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    /* The server is gone, and its socket with it. */
    g_assert_cmpint(fl_clients_count(list, path), ==, -1);
    close(own);
    close(list);
    g_unlink(path);
    g_rmdir(folder);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/util/error", test_error);
    g_test_add_func("/util/sizes", test_sizes);
    g_test_add_func("/util/seconds", test_seconds);
    g_test_add_func("/util/arithmetic", test_arithmetic);
    g_test_add_func("/util/names", test_names);
    g_test_add_func("/util/hostile-names", test_hostile_names);
    g_test_add_func("/util/long-names", test_long_names);
    g_test_add_func("/util/hash", test_hash);
    g_test_add_func("/util/printable", test_printable);
    g_test_add_func("/util/rate", test_rate);
    g_test_add_func("/util/budget", test_budget);
    g_test_add_func("/util/clients", test_clients);
    return g_test_run();
}
