/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fleecefs-changed: lists the files of a guest that changed.
 *
 * Each part is walked in a separate process, which opens the part and its maps, drops its
 * privileges, and only then parses what the guest wrote.
 */
#include "changed/filesystem.h"
#include "changed/report.h"
#include "config.h"
#include "util/confine.h"

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* A walk of some million files takes a few hundred MiB. */
#define MEMORY_MAX (UINT64_C(4) << 30)

typedef struct {
    FlPartOptions part;
    FlReport report;
    bool extents;
    char **paths;
    char *since; /* as given */
} Options;

static void clear(Options *options)
{
    g_strfreev(options->paths);
    g_strfreev(options->part.maps);
    g_free(options->since);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, clear)

/* Removes "--between A B", which has two values, from ARGV. */
static bool take_between(int *argc, char **argv, FlPartOptions *options, GError **error)
{
    for (int i = 1; i < *argc && !g_str_equal(argv[i], "--"); i++) {
        if (!g_str_equal(argv[i], "--between"))
            continue;
        if (*argc - i < 3)
            return fl_fail_usage(error,
                                 "--between takes two bitmaps: the earlier and the later one");
        options->since = argv[i + 1];
        options->until = argv[i + 2];
        memmove(argv + i, argv + i + 3, sizeof *argv * (size_t)(*argc - i - 2));
        *argc -= 3;
        break;
    }
    return true;
}

static bool parse_kinds(const char *text, unsigned *kinds, GError **error)
{
    static const char *const names[] = {"data", "metadata", "deleted"};
    g_auto(GStrv) words = g_strsplit(text != NULL ? text : "data,metadata,deleted", ",", -1);

    *kinds = 0;
    if (*words == NULL)
        return fl_fail_usage(error, "--only is empty; kinds are data, metadata, deleted");
    for (char **word = words; *word != NULL; word++) {
        size_t i = 0;

        while (i < G_N_ELEMENTS(names) && !g_str_equal(*word, names[i]))
            i++;
        if (i == G_N_ELEMENTS(names))
            return fl_fail_usage(
                error, "--only=%s: unknown kind \"%s\"; kinds are data, metadata, deleted", text,
                *word);
        *kinds |= 1u << i;
    }
    return true;
}

static bool parse_time(const char *text, int64_t *seconds, GError **error)
{
    g_autoptr(GTimeZone) local = g_time_zone_new_local();
    g_autoptr(GDateTime) time = NULL;
    g_autofree char *of_day = text != NULL ? g_strconcat(text, "T00:00:00", NULL) : NULL;

    *seconds = -1;
    if (text == NULL)
        return true;
    time = g_date_time_new_from_iso8601(text, local);
    if (time == NULL)
        time = g_date_time_new_from_iso8601(of_day, local);
    if (time == NULL || g_date_time_to_unix(time) < 0)
        return fl_fail_usage(
            error,
            "--newer=%s: not a time such as 2026-11-21, 2026-11-21T03:00:00 or 20261121T030000Z",
            text);
    *seconds = g_date_time_to_unix(time);
    return true;
}

/* Not a depth that a user would give. */
#define NO_SUMMARY G_MININT

/* Options as GLib parses them. */
typedef struct {
    gboolean json, null, sort, human, version, extents;
    int depth; /* NO_SUMMARY: none */
    char *only, *newer;
} Words;

static void clear_words(Words *words)
{
    g_free(words->only);
    g_free(words->newer);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Words, clear_words)

static bool parse_words(int argc, char **argv, Words *words, Options *options, GError **error)
{
    static const char summary[] =
        "Lists the changed files of a guest. PART is a file of a mount that holds a file\n"
        "system: EXPORT/part1.raw, or EXPORT/disk.raw if there are no partitions.\n"
        "\n"
        "      --between A B         changes since bitmap A began; \"?\" if also since B";
    const GOptionEntry entries[] = {
        {"since", 's', 0, G_OPTION_ARG_STRING, &options->since,
         "changes since BITMAP began (the increment)", "BITMAP"},
        {"map", 'm', 0, G_OPTION_ARG_FILENAME_ARRAY, &options->part.maps,
         "changes in a stored dirty/NAME.map; repeatable", "FILE"},
        {"newer", 'n', 0, G_OPTION_ARG_STRING, &words->newer, "time when BITMAP began", "TIME"},
        {"only", 'o', 0, G_OPTION_ARG_STRING, &words->only, "only these: data,metadata,deleted",
         "KINDS"},
        {"sort", 'S', 0, G_OPTION_ARG_NONE, &words->sort, "sort by size of the change", NULL},
        {"summary", 'd', 0, G_OPTION_ARG_INT, &words->depth, "totals of folders, down to DEPTH",
         "DEPTH"},
        {"human", 'H', 0, G_OPTION_ARG_NONE, &words->human, "print sizes such as 1.5G", NULL},
        {"json", 'j', 0, G_OPTION_ARG_NONE, &words->json, "print a JSON object per line", NULL},
        {"extents", 'e', 0, G_OPTION_ARG_NONE, &words->extents,
         "with --json: print extents in PART", NULL},
        {"null", '0', 0, G_OPTION_ARG_NONE, &words->null,
         "print NUL-terminated paths, for tar and rsync", NULL},
        {"version", 'V', 0, G_OPTION_ARG_NONE, &words->version, "print the version", NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &options->paths, NULL, "PART..."},
        {NULL, 0, 0, 0, NULL, NULL, NULL},
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);

    g_option_context_set_summary(context, summary);
    g_option_context_add_main_entries(context, entries, NULL);
    if (g_option_context_parse(context, &argc, &argv, error))
        return true;
    (*error)->domain = FL_ERROR;
    (*error)->code = FL_ERROR_USAGE;
    g_prefix_error(error, "wrong usage, see fleecefs-changed --help: ");
    return false;
}

static bool check_words(const Words *words, const Options *options, GError **error)
{
    if (options->paths == NULL)
        return fl_fail_usage(error, "no PART given, the file of a mount such as EXPORT/part1.raw");
    if (g_strv_contains((const char *const *)options->paths, ""))
        return fl_fail_usage(error, "the name of a PART is empty");
    if (words->depth != NO_SUMMARY && words->depth < 0)
        return fl_fail_usage(error, "--summary=%d: a depth is 0 or more", words->depth);
    if (words->extents && !words->json)
        return fl_fail_usage(error, "--extents requires --json");
    if ((options->since != NULL) + (options->part.until != NULL) + (options->part.maps != NULL) > 1)
        return fl_fail_usage(error, "--since, --between and --map exclude each other");
    if (words->json && words->null)
        return fl_fail_usage(error, "--json and --null exclude each other");
    if (words->null && options->paths[1] != NULL)
        return fl_fail_usage(error, "--null lists one file system, not several");
    return true;
}

static bool parse(int argc, char **argv, Options *options, GError **error)
{
    g_auto(Words) words = {.depth = NO_SUMMARY};

    if (!take_between(&argc, argv, &options->part, error) ||
        !parse_words(argc, argv, &words, options, error))
        return false;
    if (words.version) {
        puts("fleecefs-changed " FL_VERSION);
        exit(0);
    }
    if (!check_words(&words, options, error))
        return false;
    if (options->since != NULL)
        options->part.since = options->since;
    options->extents = words.extents;
    options->report = (FlReport){
        .format = words.json   ? FL_REPORT_JSON
                  : words.null ? FL_REPORT_NAMES
                               : FL_REPORT_TEXT,
        .by_size = words.sort,
        .summary = words.depth != NO_SUMMARY,
        .depth = words.depth >= 0 ? (unsigned)words.depth : 0,
        .human = words.human,
    };
    return parse_kinds(words.only, &options->report.kinds, error) &&
           parse_time(words.newer, &options->part.newer, error);
}

static bool write_all(const GString *out)
{
    for (size_t done = 0; done < out->len;) {
        ssize_t n = write(STDOUT_FILENO, out->str + done, out->len - done);

        if (n < 0 && errno != EINTR)
            return false;
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static int complain(const GError *error)
{
    fprintf(stderr, "fleecefs-changed: %s\n", error->message);
    return fl_error_exit_status(error);
}

/* Runs in a separate process. Returns the exit status. */
static int list_part(const Options *options, const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlPart) part = fl_part_open(path, &options->part, &error);
    g_autoptr(GString) out = g_string_new(NULL), warnings = g_string_new(NULL);
    g_autoptr(FlChangedList) list = NULL;
    FlWalk walk = {.extents = options->extents, .warnings = warnings};
    FlReport report = options->report;

    if (part == NULL || !fl_confine(MEMORY_MAX, &error))
        return complain(error);
    list = fl_walk(part, &walk, &error);
    if (list == NULL)
        return complain(error);
    report.several = options->paths[1] != NULL;
    report.part = part;
    fl_report(&report, fl_changed_list_finish(list), out);
    if (!write_all(out)) {
        fprintf(stderr, "fleecefs-changed: cannot write: %s\n", g_strerror(errno));
        return 1;
    }
    if (fl_changed_list_faults(list) > 0)
        g_string_append_printf(
            warnings,
            "%s: %u inodes or folders are damaged: their contents may be missing from the list\n",
            path, fl_changed_list_faults(list));
    fputs(warnings->str, stderr);
    return warnings->len > 0 ? FL_ERROR_LEFT : 0;
}

static int run(const Options *options, const char *path)
{
    pid_t parent = getpid(), pid = fork();
    int status;

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(getppid() == parent ? list_part(options, path) : 1);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0) {
        fprintf(stderr, "fleecefs-changed: %s: cannot start a process: %s\n", path,
                g_strerror(errno));
        return 1;
    }
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    fprintf(stderr,
            "fleecefs-changed: %s: the file system is damaged or malicious: the process that read "
            "it ended with \"%s\"\n",
            path, strsignal(WTERMSIG(status)));
    return 1;
}

int main(int argc, char **argv)
{
    g_auto(Options) options = {0};
    g_autoptr(GError) error = NULL;
    int status = 0;

    setlocale(LC_ALL, "");
    if (!parse(argc, argv, &options, &error))
        return complain(error);
    for (char **path = options.paths; *path != NULL; path++) {
        int one = run(&options, *path);

        status = status == 0 || one == 1 ? one : status;
    }
    return status;
}
