/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/piece-notes.h"

#include "snapshot/journal.h"
#include "util/name.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>

#define TITLE   "fleecefs pieces "
#define VERSION "1"
#define SUM     "sha256 "
/* A run of pieces takes up to 42 bytes; a disk rarely has more runs than pieces of the default
 * size. */
#define NOTES_MAX (64u << 20)
/* The beginning of a file's name up to the hash of its source. */
#define SOURCE_PREFIX_LENGTH strlen("pieces-0123456789abcdef")

/* The path prefix shared by all notes of one disk and series. */
static char *prefix_of(const FlPieceNotes *notes)
{
    return g_strdup_printf("pieces-%016" G_GINT64_MODIFIER "x-%016" G_GINT64_MODIFIER "x-",
                           fl_name_hash(notes->source, NULL),
                           fl_name_hash(notes->series, notes->place, NULL));
}

static char *name_for(const FlPieceNotes *notes, const char *id)
{
    g_autofree char *prefix = prefix_of(notes);
    g_autofree char *point = fl_name_encode(id);

    return g_strconcat(prefix, point, NULL);
}

static char *name_of(const FlPieceNotes *notes)
{
    return name_for(notes, notes->point);
}

static char *sum_of(const char *text, gsize length)
{
    return g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)text, length);
}

static void add_line(GString *text, const char *name, const char *value)
{
    g_autofree char *safe = fl_name_encode(value);

    g_string_append_printf(text, "%s %s\n", name, safe);
}

static void add_number(GString *text, const char *name, uint64_t value)
{
    g_string_append_printf(text, "%s %" G_GUINT64_FORMAT "\n", name, value);
}

/* ID, or the name of a series, as it is in the file. Free with g_free(). */
static char *encode_id(const char *id)
{
    return id != NULL ? fl_name_encode(id) : g_strdup("-");
}

/* The head of the file: everything before the times and the checksum. SERIES, DISK_ID and POINT are
 * as in the file. */
static GString *make_head(const char *series, const char *place, const char *disk_id,
                          const char *point, uint64_t disk_size, uint64_t piece_size)
{
    GString *text = g_string_new(TITLE VERSION "\n");

    g_string_append_printf(text, "series %s\n", series);
    add_line(text, "place", place);
    g_string_append_printf(text, "disk_id %s\nrestore_point %s\n", disk_id, point);
    add_number(text, "disk_size", disk_size);
    add_number(text, "piece_size", piece_size);
    return text;
}

/* Returns the value of the line that begins with NAME, or NULL. Free with g_free(). */
static char *value_of(const char *text, const char *name)
{
    g_autofree char *start = g_strconcat("\n", name, " ", NULL);
    const char *at = strstr(text, start);

    return at != NULL ? g_strndup(at + strlen(start), strcspn(at + strlen(start), "\n")) : NULL;
}

static uint64_t number_of(const char *text, const char *name)
{
    g_autofree char *value = value_of(text, name);
    guint64 n = 0;

    return value != NULL && g_ascii_string_to_unsigned(value, 10, 1, G_MAXINT64, &n, NULL) ? n : 0;
}

/* A series, disk_id or point of NOTES that is NULL may be any. */
static FlTimes *parse(const FlPieceNotes *notes, char *text, gsize length, const char **why)
{
    char *sum = g_strrstr(text, "\n" SUM);
    g_autofree char *expected = NULL, *series = NULL, *disk_id = NULL, *point = NULL;
    g_autoptr(GString) head = NULL;
    uint64_t disk_size, piece_size;
    FlTimes *times;

    *why = "they are damaged";
    if (sum == NULL || strlen(text) != length)
        return NULL;
    sum++;
    expected = sum_of(text, (gsize)(sum - text));
    if (!g_str_has_prefix(sum + strlen(SUM), expected) ||
        !g_str_equal(sum + strlen(SUM) + strlen(expected), "\n"))
        return NULL;
    *sum = '\0';
    if (!g_str_has_prefix(text, TITLE VERSION "\n")) {
        *why = "they were written by another version of fleecefs";
        return NULL;
    }
    disk_size = number_of(text, "disk_size");
    piece_size = number_of(text, "piece_size");
    series = notes->series != NULL ? encode_id(notes->series) : value_of(text, "series");
    disk_id = notes->disk_id != NULL ? encode_id(notes->disk_id) : value_of(text, "disk_id");
    point = notes->point != NULL ? encode_id(notes->point) : value_of(text, "restore_point");
    if (series == NULL || disk_id == NULL || point == NULL)
        return NULL;
    head = make_head(series, notes->place, disk_id, point, disk_size, piece_size);
    if (!g_str_has_prefix(text, head->str)) {
        *why = "they are of another disk, or the disk had another name";
        return NULL;
    }
    times = fl_times_parse(text + head->len, disk_size, piece_size);
    if (times != NULL)
        *why = NULL;
    return times;
}

static FlTimes *load_file(const FlPieceNotes *notes, const char *path, const char **why)
{
    g_autofree char *text = NULL;
    gsize length;
    struct stat st;

    if (stat(path, &st) < 0 || st.st_size > NOTES_MAX ||
        !g_file_get_contents(path, &text, &length, NULL))
        return NULL;
    return parse(notes, text, length, why);
}

/* Whether the file at PATH has VALUE for NAME. */
static bool says(const char *path, const char *name, const char *value)
{
    g_autofree char *text = NULL, *said = NULL, *safe = fl_name_encode(value);

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return false;
    said = value_of(text, name);
    return g_strcmp0(said, safe) == 0;
}

/* Whether a source other than that of the file OWNER has notes for PLACE with a second of TIMES. */
static bool shares_second(const FlTimes *times, const char *state, const char *owner,
                          const char *place)
{
    const FlPieceNotes any = {.place = place};
    g_autoptr(GDir) directory = g_dir_open(state, 0, NULL);
    const char *other, *why;
    bool found = false;

    while (directory != NULL && !found && (other = g_dir_read_name(directory)) != NULL) {
        g_autofree char *path = g_build_filename(state, other, NULL);
        g_autoptr(FlTimes) its = NULL;

        if (!g_str_has_prefix(other, "pieces-") || strncmp(other, owner, SOURCE_PREFIX_LENGTH) == 0)
            continue;
        its = load_file(&any, path, &why);
        found = its != NULL && fl_times_share_second(times, its);
    }
    return found;
}

/* The times in a file of another source than that of NOTES. */
static FlTimes *load_of_others(const FlPieceNotes *notes, const char *state, const char **why)
{
    g_autofree char *point = fl_name_encode(notes->point);
    g_autofree char *suffix = g_strconcat("-", point, NULL);
    g_autoptr(GDir) directory = g_dir_open(state, 0, NULL);
    FlTimes *times = NULL;
    const char *other;

    while (directory != NULL && times == NULL && (other = g_dir_read_name(directory)) != NULL) {
        g_autofree char *path = g_build_filename(state, other, NULL);

        if (!g_str_has_prefix(other, "pieces-") || !g_str_has_suffix(other, suffix))
            continue;
        times = load_file(notes, path, why);
        if (times != NULL && shares_second(times, state, other, notes->place)) {
            *why = "a disk of another VM with this name has pieces with the same times";
            g_clear_pointer(&times, fl_times_free);
        }
    }
    return times;
}

FlTimes *fl_piece_notes_load(const FlPieceNotes *notes, bool any_source, const char **why)
{
    g_autofree char *state = fl_state_directory(NULL);
    g_autofree char *name = name_of(notes);
    g_autofree char *path = state != NULL ? g_build_filename(state, name, NULL) : NULL;
    FlTimes *times;

    *why = "there are none";
    if (path == NULL)
        return NULL;
    times = load_file(notes, path, why);
    return times == NULL && any_source ? load_of_others(notes, state, why) : times;
}

GPtrArray *fl_piece_notes_others(const FlPieceNotes *notes, bool any_source)
{
    GPtrArray *all = g_ptr_array_new_with_free_func((GDestroyNotify)fl_times_free);
    g_autofree char *state = fl_state_directory(NULL);
    g_autofree char *prefix = prefix_of(notes), *name = name_of(notes);
    /* After the hash of the source, prefixes are the same. */
    size_t skip = any_source ? SOURCE_PREFIX_LENGTH : 0;
    FlPieceNotes any = *notes;
    g_autoptr(GDir) directory = state != NULL ? g_dir_open(state, 0, NULL) : NULL;
    const char *other, *why;

    any.point = NULL;
    while (directory != NULL && (other = g_dir_read_name(directory)) != NULL) {
        g_autofree char *path = g_build_filename(state, other, NULL);
        bool ours = strlen(other) > skip && g_str_has_prefix(other + skip, prefix + skip) &&
                    !g_str_equal(other + skip, name + skip);
        FlTimes *times = ours ? load_file(&any, path, &why) : NULL;

        if (times != NULL)
            g_ptr_array_add(all, times);
    }
    return all;
}

bool fl_piece_notes_save(const FlPieceNotes *notes, const FlTimes *times, GError **error)
{
    g_autofree char *state = fl_state_directory(error);
    g_autofree char *name = name_of(notes);
    g_autofree char *series = encode_id(notes->series), *disk_id = encode_id(notes->disk_id);
    g_autofree char *point = encode_id(notes->point), *path = NULL, *sum = NULL;
    g_autoptr(GString) text = NULL;

    if (state == NULL)
        return false;
    text = make_head(series, notes->place, disk_id, point, fl_times_disk_size(times),
                     fl_times_piece_size(times));
    fl_times_print(times, text);
    sum = sum_of(text->str, text->len);
    g_string_append_printf(text, SUM "%s\n", sum);
    path = g_build_filename(state, name, NULL);
    return fl_state_write(path, text->str, (gssize)text->len, error);
}

void fl_piece_notes_settle(const FlPieceNotes *notes, const char *base)
{
    g_autofree char *state = fl_state_directory(NULL);
    g_autofree char *prefix = prefix_of(notes);
    g_autofree char *name = name_of(notes);
    g_autofree char *kept = base != NULL ? name_for(notes, base) : NULL;
    g_autoptr(GDir) directory = state != NULL ? g_dir_open(state, 0, NULL) : NULL;
    const char *other;

    while (directory != NULL && (other = g_dir_read_name(directory)) != NULL) {
        g_autofree char *path = g_build_filename(state, other, NULL);

        if (g_str_has_prefix(other, prefix) && !g_str_equal(other, name) &&
            g_strcmp0(other, kept) != 0)
            g_unlink(path);
    }
}

/* Calls FUNCTION with the path of each file that begins with PREFIX, until one returns true. */
static bool find_file(const char *prefix, bool (*function)(const char *, const FlPieceNotes *),
                      const FlPieceNotes *notes)
{
    g_autofree char *state = fl_state_directory(NULL);
    g_autoptr(GDir) directory = state != NULL ? g_dir_open(state, 0, NULL) : NULL;
    const char *name;

    while (directory != NULL && (name = g_dir_read_name(directory)) != NULL) {
        g_autofree char *path = g_build_filename(state, name, NULL);

        if (g_str_has_prefix(name, prefix) && function(path, notes))
            return true;
    }
    return false;
}

static char *source_prefix(const char *source)
{
    return g_strdup_printf("pieces-%016" G_GINT64_MODIFIER "x-", fl_name_hash(source, NULL));
}

static bool is_of_disk(const char *path, const FlPieceNotes *notes)
{
    return says(path, "disk_id", notes->disk_id);
}

static bool is_of_place(const char *path, const FlPieceNotes *notes)
{
    return says(path, "place", notes->place);
}

static bool is_any(const char *path, const FlPieceNotes *notes)
{
    (void)path;
    (void)notes;
    return true;
}

bool fl_piece_notes_exist(const FlPieceNotes *notes)
{
    g_autofree char *prefix = prefix_of(notes);

    return find_file(prefix, is_any, notes);
}

static bool remove_of_place(const char *path, const FlPieceNotes *notes)
{
    if (is_of_place(path, notes))
        g_unlink(path);
    return false;
}

bool fl_piece_notes_foreign(const FlPieceNotes *notes)
{
    g_autofree char *prefix = prefix_of(notes), *all = source_prefix(notes->source);

    return (notes->disk_id == NULL || !find_file(prefix, is_of_disk, notes)) &&
           find_file(all, is_of_place, notes);
}

void fl_piece_notes_take_over(const FlPieceNotes *notes)
{
    g_autofree char *all = source_prefix(notes->source);

    find_file(all, remove_of_place, notes);
}

static bool remove_of_series(const char *path, const FlPieceNotes *notes)
{
    if (notes->series == NULL || says(path, "series", notes->series))
        g_unlink(path);
    return false;
}

void fl_piece_notes_forget(const char *source, const char *series)
{
    g_autofree char *prefix = source_prefix(source);

    find_file(prefix, remove_of_series, &(FlPieceNotes){.series = series});
}
