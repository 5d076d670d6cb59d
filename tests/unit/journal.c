/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/journal.h"

#include <glib/gstdio.h>
#include <string.h>

typedef struct {
    char *directory;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    f->directory = g_dir_make_tmp("fleecefs-test.XXXXXX", NULL);
    g_assert_nonnull(f->directory);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    GDir *dir = g_dir_open(f->directory, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(f->directory, name, NULL);
        g_unlink(path);
    }
    g_dir_close(dir);
    g_assert_cmpint(g_rmdir(f->directory), ==, 0);
    g_free(f->directory);
}

static FlJournal *open_journal(Fixture *f, const char *key)
{
    g_autoptr(GError) error = NULL;
    FlJournal *journal = fl_journal_open(f->directory, key, NULL, &error);

    g_assert_no_error(error);
    return journal;
}

static void test_is_remembered(Fixture *f, gconstpointer data)
{
    FlJournalEntry entry = {.source = "qmp:/a", .series = "last", .agent = "/ga", .socket = NULL};
    g_autoptr(FlJournal) journal = open_journal(f, "/run/vm \n1.qmp");
    const FlJournalEntry *found;

    g_assert_null(fl_journal_entry(journal));
    g_assert_true(fl_journal_write(journal, &entry, NULL));
    fl_journal_close(journal);

    journal = open_journal(f, "/run/vm \n1.qmp");
    found = fl_journal_entry(journal);
    g_assert_nonnull(found);
    g_assert_cmpstr(found->source, ==, "qmp:/a");
    g_assert_cmpstr(found->agent, ==, "/ga");
    g_assert_null(found->socket);

    /* A new entry may reuse strings of an entry that was read. */
    entry = *found;
    entry.agent = NULL;
    g_assert_true(fl_journal_write(journal, &entry, NULL));
    g_assert_cmpstr(fl_journal_entry(journal)->series, ==, "last");
    g_assert_null(fl_journal_entry(journal)->agent);

    g_assert_null(fl_journal_entry(journal)->failed);
    g_assert_true(fl_journal_write_failed(journal, "fleecefs.last.1", NULL));
    g_assert_cmpstr(fl_journal_entry(journal)->failed, ==, "fleecefs.last.1");
    g_assert_cmpstr(fl_journal_entry(journal)->series, ==, "last");

    g_assert_true(fl_journal_forget(journal, NULL));
    g_assert_true(fl_journal_forget(journal, NULL));
    g_assert_null(fl_journal_entry(journal));
    fl_journal_close(journal);
    journal = open_journal(f, "/run/vm \n1.qmp");
    g_assert_null(fl_journal_entry(journal));
}

static void test_is_locked(Fixture *f, gconstpointer data)
{
    g_autoptr(FlJournal) first = open_journal(f, "a");
    g_autoptr(FlJournal) other = open_journal(f, "b");
    g_autoptr(FlJournal) second = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_null(fl_journal_entry(other));
    g_assert_null(fl_journal_open(f->directory, "a", NULL, &error));
    g_assert_nonnull(strstr(error->message, "another fleecefs uses this VM, process "));
    g_clear_pointer(&first, fl_journal_close);
    second = open_journal(f, "a");
}

/* The lock names the mount that holds it, for as long as that is the case. */
static void test_names_the_mount(Fixture *f, gconstpointer data)
{
    g_autoptr(FlJournal) first = fl_journal_open(f->directory, "a", "/mnt/a b\nc", NULL);
    g_autofree char *path = g_build_filename(f->directory, "a.lock", NULL);
    g_autofree char *text = NULL;

    g_assert_nonnull(first);
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(fl_journal_open(f->directory, "a", "/other", &error));
        g_assert_nonnull(strstr(error->message, "uses this VM, the mount /mnt/a b c: end it"));
        g_assert_true(fl_journal_set_second(first, 1000, NULL));
    }
    g_clear_pointer(&first, fl_journal_close);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "1000\n");
    first = open_journal(f, "a");
    g_assert_cmpint(fl_journal_second(first, 1000), ==, 1001);
}

static void test_seconds_differ(Fixture *f, gconstpointer data)
{
    g_autoptr(FlJournal) journal = open_journal(f, "a");

    g_assert_cmpint(fl_journal_second(journal, 1000), ==, 1000);
    g_assert_true(fl_journal_set_second(journal, 1000, NULL));
    g_assert_cmpint(fl_journal_second(journal, 1000), ==, 1001);
    g_assert_true(fl_journal_set_second(journal, 1001, NULL));
    fl_journal_close(journal);

    journal = open_journal(f, "a");
    g_assert_cmpint(fl_journal_second(journal, 1000), ==, 1002);
    g_assert_cmpint(fl_journal_second(journal, 1002), ==, 1002);
    /* The clock was set back. */
    g_assert_cmpint(fl_journal_second(journal, 500), ==, 500);
}

static void test_broken(Fixture *f, gconstpointer data)
{
    g_autofree char *deep = g_strnfill(1000000, '[');
    const char *const texts[] = {
        "",  "{", "[]", "{}", "{\"version\": 99}", "{\"version\": \"1\"}", "{\"a\": \"\xff\"}",
        deep};
    g_autofree char *path = g_build_filename(f->directory, "a.journal", NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_true(g_file_set_contents(path, texts[i], -1, NULL));
        g_assert_null(fl_journal_open(f->directory, "a", NULL, &error));
        g_assert_nonnull(strstr(error->message, path));
    }
}

static bool make_file(Fixture *f, const char *name)
{
    g_autofree char *path = g_build_filename(f->directory, name, NULL);

    return g_file_set_contents(path, "{", -1, NULL);
}

static bool is_there(Fixture *f, const char *name)
{
    g_autofree char *path = g_build_filename(f->directory, name, NULL);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

/* Removes temporary files of a daemon that was killed, but none of VMs with similar keys. */
static void test_unfinished(Fixture *f, gconstpointer data)
{
    static const char *const others[] = {"a.b.journal", "a.b.lock", "a.journal.journal",
                                         "a.journal.lock", "aa.journal.ABCDEF"};
    FlJournal *journal;

    for (size_t i = 0; i < G_N_ELEMENTS(others); i++)
        g_assert_true(make_file(f, others[i]));
    g_assert_true(make_file(f, "a.journal.ABCDEF"));
    journal = open_journal(f, "a");
    g_assert_false(is_there(f, "a.journal.ABCDEF"));
    g_assert_true(is_there(f, "a.lock"));
    g_assert_true(make_file(f, "a.journal.GHIJKL"));
    g_assert_true(make_file(f, "a.journal"));
    g_assert_true(fl_journal_remove(journal, NULL));
    fl_journal_close(journal);
    g_assert_false(is_there(f, "a.journal.GHIJKL"));
    g_assert_false(is_there(f, "a.journal"));
    g_assert_false(is_there(f, "a.lock"));
    for (size_t i = 0; i < G_N_ELEMENTS(others); i++)
        g_assert_true(is_there(f, others[i]));
}

static void test_state_directory(Fixture *f, gconstpointer data)
{
    g_autofree char *wanted = g_build_filename(f->directory, "new", NULL);
    g_autofree char *found = NULL;
    g_autoptr(GError) error = NULL;

    g_setenv("FLEECEFS_STATE_DIR", wanted, TRUE);
    found = fl_state_directory(NULL);
    g_assert_cmpstr(found, ==, wanted);
    g_assert_cmpint(g_rmdir(wanted), ==, 0);
    g_setenv("FLEECEFS_STATE_DIR", "/proc/nothing/can/be/here", TRUE);
    g_assert_null(fl_state_directory(&error));
    g_assert_nonnull(strstr(error->message, "FLEECEFS_STATE_DIR"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(path, test) g_test_add("/journal/" path, Fixture, NULL, set_up, test, tear_down)
    ADD("is-remembered", test_is_remembered);
    ADD("is-locked", test_is_locked);
    ADD("names-the-mount", test_names_the_mount);
    ADD("seconds-differ", test_seconds_differ);
    ADD("broken", test_broken);
    ADD("unfinished", test_unfinished);
    ADD("state-directory", test_state_directory);
    return g_test_run();
}
