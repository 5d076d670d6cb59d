/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A program instead of ssh that sends what no real shell does: bounds of time and of memory. */
#include "util/ssh.h"

#include <glib/gstdio.h>
#include <string.h>

/* Creates the socket that the master announces, then runs BODY in place of the other host's shell.
 */
#define PROGRAM                                                                                    \
    "#!/bin/sh\n"                                                                                  \
    "while [ $# -gt 0 ]; do case $1 in -S) control=$2;; -O) exit 0;; esac; shift; done\n"          \
    ": >\"$control\"\n%s\n"
/* Reads a request and finds the mark in it. */
#define READ_MARK "read -r line; line=${line##*fleecefs-}; mark=fleecefs-${line%%\\'*}\n"

typedef struct {
    char *folder, *program;
} Fixture;

static void set_up(Fixture *fixture, gconstpointer body)
{
    g_autofree char *text = g_strdup_printf(PROGRAM, (const char *)body);

    fixture->folder = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    fixture->program = g_build_filename(fixture->folder, "ssh", NULL);
    g_assert_true(g_file_set_contents(fixture->program, text, -1, NULL));
    g_assert_cmpint(g_chmod(fixture->program, 0755), ==, 0);
}

static void tear_down(Fixture *fixture, gconstpointer body)
{
    g_unlink(fixture->program);
    g_rmdir(fixture->folder);
    g_free(fixture->program);
    g_free(fixture->folder);
}

static const char *const scripts[] = {"echo \"$1\"", NULL};

static FlSsh *start(const Fixture *fixture, unsigned seconds)
{
    const FlSshSpec spec = {
        .program = fixture->program, .host = "host", .scripts = scripts, .seconds = seconds};
    g_autoptr(GError) error = NULL;
    FlSsh *ssh = fl_ssh_start(&spec, &error);

    g_assert_no_error(error);
    return ssh;
}

static void assert_fails(FlSsh *ssh, const char *why)
{
    const char *const args[] = {"x", NULL};
    g_autoptr(GError) error = NULL;
    g_autofree char *text = fl_ssh_run(ssh, 0, args, &error);

    g_assert_null(text);
    g_assert_nonnull(strstr(error->message, why));
}

static void test_answers(Fixture *fixture, gconstpointer body)
{
    static const char *const args[] = {"it's \"$x\" \\", NULL};
    g_autoptr(FlSsh) ssh = start(fixture, 60);
    g_autoptr(GError) error = NULL;
    g_autofree char *text = fl_ssh_run(ssh, 0, args, &error);

    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, "it's \"$x\" \\\n");
}

/* Whatever the complaint is, it is text of bounded length, and the shell goes on. */
static void test_complains(Fixture *fixture, gconstpointer body)
{
    static const char *const args[] = {"x", NULL};
    g_autoptr(FlSsh) ssh = start(fixture, 60);

    for (int i = 0; i < 2; i++) {
        g_autofree char *text = fl_ssh_run(ssh, 0, args, NULL), *said = NULL;

        g_assert_cmpstr(text, ==, "x\n");
        said = fl_ssh_complaint(ssh);
        g_assert_true(said == NULL || (strlen(said) < 65536 && g_utf8_validate(said, -1, NULL)));
    }
}

static void test_ends(Fixture *fixture, gconstpointer body)
{
    g_autoptr(FlSsh) ssh = start(fixture, 60);

    assert_fails(ssh, "the connection ");
    assert_fails(ssh, "the connection ");
}

static void test_silent(Fixture *fixture, gconstpointer body)
{
    g_autoptr(FlSsh) ssh = start(fixture, 1);

    assert_fails(ssh, " in time (-o timeout=)");
}

static void test_forwards(Fixture *fixture, gconstpointer body)
{
    g_autoptr(FlSsh) ssh = start(fixture, 60);
    g_autoptr(GError) error = NULL;

    for (int i = 0; i < FL_SSH_FORWARDS; i++)
        g_assert_nonnull(fl_ssh_forward(ssh, "s", "/there", NULL));
    g_assert_null(fl_ssh_forward(ssh, "s", "/there", &error));
    g_assert_nonnull(strstr(error->message, "no further sockets"));
}

/* All folders have been removed. */
static void check_left(const char *parent)
{
    GDir *dir = g_dir_open(parent, 0, NULL);

    g_assert_null(g_dir_read_name(dir));
    g_dir_close(dir);
    g_rmdir(parent);
}

static void add(const char *name, void (*test)(Fixture *, gconstpointer), const char *body)
{
    g_autofree char *path = g_strconcat("/ssh/", name, NULL);

    g_test_add(path, Fixture, body, set_up, test, tear_down);
}

/* Most of the debug messages quote what a hostile peer sent. */
static void discard(const gchar *domain, GLogLevelFlags level, const gchar *message, gpointer data)
{
}

int main(int argc, char **argv)
{
    g_autofree char *parent = g_dir_make_tmp("fleecefs-ssh-test-XXXXXX", NULL);
    int status;

    g_setenv("TMPDIR", parent, TRUE);
    g_test_init(&argc, &argv, NULL);
    g_log_set_handler(G_LOG_DOMAIN, G_LOG_LEVEL_DEBUG, discard, NULL);
    add("shell", test_answers, "exec sh -s");
    add("banner", test_answers, "printf 'Welcome\\nfleecefs-\\n'; exec sh -s");
    add("complaints", test_complains, "tr '\\0' '\\377' </dev/zero >&2 & exec sh -s");
    add("output-without-end", test_ends, "exec cat /dev/zero");
    add("lines-without-end", test_ends, "exec yes");
    add("script-without-end", test_ends, READ_MARK "printf '\\n%s\\n' \"$mark\"; exec yes");
    add("status-without-end", test_ends,
        READ_MARK "printf '\\n%s\\n\\n%s ' \"$mark\" \"$mark\"; exec tr '\\0' 1 </dev/zero");
    add("end", test_ends, READ_MARK "exit");
    add("silent", test_silent, "exec sleep 1000");
    add("never-ends", test_silent, READ_MARK "printf '\\n%s\\n' \"$mark\"; exec sleep 1000");
    add("forwards", test_forwards, "exec sh -s");
    status = g_test_run();
    check_left(parent);
    return status;
}
