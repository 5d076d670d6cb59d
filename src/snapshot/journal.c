/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/journal.h"

#include "qemu/json.h"
#include "util/name.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define JOURNAL_VERSION 1
/* If the clock was set back by this many seconds or more, follow it: a restore point dated far in
 * the future would be worse. */
#define CLOCK_STEP 60
/* g_file_set_contents() writes to a temporary file, the same name plus a dot and this many
 * characters, and renames it. */
#define UNFINISHED 6
/* Bytes about who holds a lock: a path as long as Linux allows. */
#define HOLDER_MAX 4096

struct FlJournal {
    char *directory, *path; /* of the journal */
    int lock;
    char *holder;         /* the second line of the lock file; NULL: the lock is not ours */
    gint64 last_second;   /* G_MININT64 if none */
    JsonObject *object;   /* the stored entry; NULL if there is none */
    FlJournalEntry entry; /* its strings belong to OBJECT */
};

char *fl_state_directory(GError **error)
{
    const char *chosen = g_getenv("FLEECEFS_STATE_DIR");
    g_autofree char *path = NULL;

    if (chosen != NULL && *chosen != '\0')
        path = g_canonicalize_filename(chosen, NULL);
    else if (geteuid() == 0)
        path = g_strdup("/var/lib/fleecefs");
    else
        path = g_build_filename(g_get_user_state_dir(), "fleecefs", NULL);

    if (g_mkdir_with_parents(path, 0700) < 0) {
        fl_fail(error, "state directory %s: %s; set FLEECEFS_STATE_DIR to another", path,
                g_strerror(errno));
        return NULL;
    }
    return g_steal_pointer(&path);
}

/* A rename survives a crash only if the directory was synced too. */
static bool sync_directory(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;

    if (!ok)
        fl_fail(error, "state directory %s: %s", path, g_strerror(errno));
    if (fd >= 0)
        close(fd);
    return ok;
}

bool fl_state_remove_unfinished(const char *path, int seconds, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path), *name = g_path_get_basename(path);
    g_autofree char *prefix = g_strconcat(name, ".", NULL);
    g_autoptr(GDir) directory = g_dir_open(folder, 0, NULL);
    const char *other;

    while (directory != NULL && (other = g_dir_read_name(directory)) != NULL) {
        g_autofree char *unfinished = g_build_filename(folder, other, NULL);
        struct stat st;

        /* "KEY.journal" may itself be another VM's key, but then the lengths differ. */
        if (!g_str_has_prefix(other, prefix) || strlen(other) != strlen(prefix) + UNFINISHED ||
            stat(unfinished, &st) < 0 || time(NULL) - st.st_mtime < seconds)
            continue;
        if (g_unlink(unfinished) < 0 && errno != ENOENT)
            return fl_fail(error, "%s: %s", unfinished, g_strerror(errno));
    }
    return true;
}

bool fl_state_write(const char *path, const char *text, gssize length, GError **error)
{
    g_autofree char *directory = g_path_get_dirname(path);
    g_autoptr(GError) failure = NULL;

    if (!g_file_set_contents_full(path, text, length,
                                  G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE,
                                  0600, &failure))
        return fl_fail(error, "state directory %s: %s", directory, failure->message);
    return sync_directory(directory, error);
}

static void set_object(FlJournal *journal, JsonObject *object)
{
    g_clear_pointer(&journal->object, json_object_unref);
    journal->object = object;
    journal->entry = (FlJournalEntry){
        .source = fl_json_string(object, "source"),
        .series = fl_json_string(object, "series"),
        .agent = fl_json_string(object, "agent"),
        .socket = fl_json_string(object, "socket"),
        .failed = fl_json_string(object, "failed"),
    };
}

static bool load(FlJournal *journal, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) failure = NULL;
    g_autoptr(JsonObject) object = NULL;
    gsize length;

    if (!g_file_get_contents(journal->path, &text, &length, &failure)) {
        if (g_error_matches(failure, G_FILE_ERROR, G_FILE_ERROR_NOENT))
            return true;
        return fl_fail(error, "journal: %s", failure->message);
    }
    object = fl_json_parse(text, length, &failure);
    if (object == NULL)
        return fl_fail(error,
                       "journal %s: %s; if the guest runs and fleecefs left nothing in its VM, "
                       "remove this file",
                       journal->path, failure->message);
    if (fl_json_int(object, "version") != JOURNAL_VERSION)
        return fl_fail(error, "journal %s: written by another version of fleecefs", journal->path);
    set_object(journal, g_steal_pointer(&object));
    return true;
}

/* The lock file has the last second, which may be missing, and a line about who holds the lock. */
static gint64 read_lock(int fd, char **holder)
{
    char text[32 + HOLDER_MAX] = "";
    g_auto(GStrv) lines = NULL;
    gint64 second;

    if (pread(fd, text, sizeof text - 1, 0) <= 0)
        return G_MININT64;
    lines = g_strsplit(text, "\n", 2);
    if (holder != NULL && lines[0] != NULL && lines[1] != NULL && *g_strchomp(lines[1]) != '\0')
        *holder = g_strdup(lines[1]);
    return lines[0] != NULL && g_ascii_string_to_signed(lines[0], 10, 0, G_MAXINT64, &second, NULL)
               ? second
               : G_MININT64;
}

/* HOLDER: "" for none. */
static bool write_lock(const FlJournal *journal, const char *holder)
{
    g_autofree char *second = g_strdup_printf("%" G_GINT64_FORMAT, journal->last_second);
    g_autofree char *text = g_strdup_printf(
        "%s\n%s%s", journal->last_second != G_MININT64 ? second : "", holder, *holder ? "\n" : "");
    gssize length = (gssize)strlen(text);

    /* In this order: the second survives if we are killed in between. */
    return pwrite(journal->lock, text, (size_t)length, 0) == length &&
           ftruncate(journal->lock, length) == 0;
}

static bool fail_locked(int fd, const char *path, GError **error)
{
    g_autofree char *holder = NULL;

    read_lock(fd, &holder);
    if (holder != NULL && *holder == '/')
        return fl_fail(error,
                       "%s: another fleecefs uses this VM, the mount %s: end it first (fleecefs "
                       "--commit or fleecefs --abort %s)",
                       path, holder, holder);
    return fl_fail(error,
                   "%s: another fleecefs uses this VM%s%s; commit, abort or unmount it first "
                   "(fleecefs --list shows the mounts)",
                   path, holder != NULL ? ", " : "", holder != NULL ? holder : "");
}

/* Whether FD is still the file at PATH: forgetting a VM removes its lock file. */
static bool is_file(int fd, const char *path)
{
    struct stat opened, named;

    return fstat(fd, &opened) == 0 && stat(path, &named) == 0 && opened.st_dev == named.st_dev &&
           opened.st_ino == named.st_ino;
}

static bool take_lock(FlJournal *journal, const char *path, GError **error)
{
    for (;;) {
        journal->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (journal->lock < 0)
            return fl_fail(error, "%s: %s; set FLEECEFS_STATE_DIR to another directory", path,
                           g_strerror(errno));
        if (flock(journal->lock, LOCK_EX | LOCK_NB) < 0)
            return fail_locked(journal->lock, path, error);
        if (is_file(journal->lock, path))
            return true;
        close(journal->lock);
        journal->lock = -1;
    }
}

FlJournal *fl_journal_open(const char *directory, const char *key, const char *mountpoint,
                           GError **error)
{
    g_autoptr(FlJournal) journal = g_new0(FlJournal, 1);
    g_autofree char *name = fl_name_encode(key);
    g_autofree char *lock = g_strdup_printf("%s/%s.lock", directory, name);

    journal->directory = g_strdup(directory);
    journal->path = g_strdup_printf("%s/%s.journal", directory, name);
    if (!take_lock(journal, lock, error))
        return NULL;
    journal->last_second = read_lock(journal->lock, NULL);
    journal->holder = mountpoint != NULL && strlen(mountpoint) < HOLDER_MAX
                          ? g_strdup(mountpoint)
                          : g_strdup_printf("process %d", (int)getpid());
    write_lock(journal, journal->holder); /* only for messages */
    if (!fl_state_remove_unfinished(journal->path, 0, error))
        return NULL;
    return load(journal, error) ? g_steal_pointer(&journal) : NULL;
}

void fl_journal_close(FlJournal *journal)
{
    if (journal == NULL)
        return;
    if (journal->lock >= 0) {
        if (journal->holder != NULL)
            write_lock(journal, "");
        close(journal->lock);
    }
    g_free(journal->holder);
    g_clear_pointer(&journal->object, json_object_unref);
    g_free(journal->directory);
    g_free(journal->path);
    g_free(journal);
}

const FlJournalEntry *fl_journal_entry(const FlJournal *journal)
{
    return journal->object != NULL ? &journal->entry : NULL;
}

static void add_string(JsonObject *object, const char *name, const char *value)
{
    if (value != NULL)
        json_object_set_string_member(object, name, value);
}

bool fl_journal_write(FlJournal *journal, const FlJournalEntry *entry, GError **error)
{
    JsonObject *object = json_object_new();
    g_autoptr(JsonNode) node = NULL;
    g_autofree char *text = NULL;

    json_object_set_int_member(object, "version", JOURNAL_VERSION);
    add_string(object, "source", entry->source);
    add_string(object, "series", entry->series);
    add_string(object, "agent", entry->agent);
    add_string(object, "socket", entry->socket);
    add_string(object, "failed", entry->failed);
    node = json_node_init_object(json_node_alloc(), object);
    text = json_to_string(node, TRUE);
    set_object(journal, object);
    return fl_state_write(journal->path, text, -1, error);
}

bool fl_journal_write_thawed(FlJournal *journal, GError **error)
{
    FlJournalEntry entry = journal->entry;

    entry.agent = NULL;
    return fl_journal_write(journal, &entry, error);
}

bool fl_journal_write_failed(FlJournal *journal, const char *point, GError **error)
{
    FlJournalEntry entry = journal->entry;

    entry.failed = point;
    return fl_journal_write(journal, &entry, error);
}

bool fl_journal_forget(FlJournal *journal, GError **error)
{
    set_object(journal, NULL);
    if (g_unlink(journal->path) < 0 && errno != ENOENT)
        return fl_fail(error, "journal %s: %s", journal->path, g_strerror(errno));
    return true;
}

/* Removes the lock file last, so that other sessions wait until the rest is gone. */
bool fl_journal_remove(FlJournal *journal, GError **error)
{
    g_autofree char *stem = g_strndup(journal->path, strlen(journal->path) - strlen("journal"));
    g_autofree char *lock = g_strconcat(stem, "lock", NULL);

    if (!fl_journal_forget(journal, error) || !fl_state_remove_unfinished(journal->path, 0, error))
        return false;
    return g_unlink(lock) == 0 || errno == ENOENT ||
           fl_fail(error, "%s: %s", lock, g_strerror(errno));
}

gint64 fl_journal_second(const FlJournal *journal, gint64 now)
{
    bool near = now <= journal->last_second && journal->last_second - now < CLOCK_STEP;

    return near ? journal->last_second + 1 : now;
}

void fl_journal_saw_second(FlJournal *journal, gint64 second, gint64 now)
{
    if (second > journal->last_second && second < now + CLOCK_STEP)
        journal->last_second = second;
}

bool fl_journal_set_second(FlJournal *journal, gint64 second, GError **error)
{
    journal->last_second = second;
    return write_lock(journal, journal->holder) ||
           fl_fail(error, "state directory %s: cannot write: %s", journal->directory,
                   g_strerror(errno));
}
