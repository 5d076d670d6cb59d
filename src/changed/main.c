/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fleecefs-changed: which files of a guest changed.
 *
 * Each part is walked by a process of its own, which opens the part and its maps, gives up its
 * rights and then reads what the guest wrote.
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
    char *since; /* as it was given */
} Options;

static void clear(Options *options)
{
    g_strfreev(options->paths);
    g_strfreev(options->part.maps);
    g_free(options->since);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, clear)

/* Takes "--between A B", which has two values, out of ARGV. */
static bool take_between(int *argc, char **argv, FlPartOptions *options, GError **error)
{
    for (int i = 1; i < *argc && !g_str_equal(argv[i], "--"); i++) {
        if (!g_str_equal(argv[i], "--between"))
            continue;
        if (*argc - i < 3)
            return fl_fail_usage(error,
                                 "--between wants two bitmaps: the earlier and the later one");
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
    for (char **word = words; *word != NULL; word++) {
        size_t i = 0;

        while (i < G_N_ELEMENTS(names) && !g_str_equal(*word, names[i]))
            i++;
        if (i == G_N_ELEMENTS(names))
            return fl_fail_usage(error, "--only=%s: no \"%s\"; there are data, metadata, deleted",
                                 text, *word);
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
        return fl_fail_usage(error,
                             "--newer=%s: no time as 2026-11-21, 2026-11-21T03:00:00 or "
                             "20261121T030000Z",
                             text);
    *seconds = g_date_time_to_unix(time);
    return true;
}

static bool parse(int argc, char **argv, Options *options, GError **error)
{
    static const char summary[] =
        "Lists the files of a guest that changed. PART is a file of a mount that holds a\n"
        "file system: EXPORT/part1.raw, or EXPORT/disk.raw if there are no partitions.\n"
        "\n"
        "      --between A B         since bitmap A began; \"?\" where also since B";
    gboolean json = FALSE, null = FALSE, sort = FALSE, human = FALSE, version = FALSE,
             extents = FALSE;
    int depth = -1;
    g_autofree char *only = NULL, *newer = NULL;
    const GOptionEntry entries[] = {
        {"since", 's', 0, G_OPTION_ARG_STRING, &options->since,
         "since BITMAP began (default: the increment)", "BITMAP"},
        {"map", 'm', 0, G_OPTION_ARG_FILENAME_ARRAY, &options->part.maps,
         "by a stored dirty/NAME.map, or several", "FILE"},
        {"newer", 'n', 0, G_OPTION_ARG_STRING, &newer, "when BITMAP began", "TIME"},
        {"only", 'o', 0, G_OPTION_ARG_STRING, &only, "of data,metadata,deleted", "KINDS"},
        {"sort", 'S', 0, G_OPTION_ARG_NONE, &sort, "the largest change first", NULL},
        {"summary", 'd', 0, G_OPTION_ARG_INT, &depth, "sums of folders, so deep", "DEPTH"},
        {"human", 'H', 0, G_OPTION_ARG_NONE, &human, "sizes as 1.5G", NULL},
        {"json", 'j', 0, G_OPTION_ARG_NONE, &json, "an object a line", NULL},
        {"extents", 'e', 0, G_OPTION_ARG_NONE, &extents, "with --json: where in PART", NULL},
        {"null", '0', 0, G_OPTION_ARG_NONE, &null, "paths, ended by NUL, for tar and rsync", NULL},
        {"version", 'V', 0, G_OPTION_ARG_NONE, &version, "print the version", NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &options->paths, NULL, "PART..."},
        {NULL, 0, 0, 0, NULL, NULL, NULL},
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);

    g_option_context_set_summary(context, summary);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!take_between(&argc, argv, &options->part, error))
        return false;
    if (!g_option_context_parse(context, &argc, &argv, error)) {
        (*error)->domain = FL_ERROR;
        (*error)->code = FL_ERROR_USAGE;
        return false;
    }
    if (version) {
        puts("fleecefs-changed " FL_VERSION);
        exit(0);
    }
    if (options->paths == NULL)
        return fl_fail_usage(error, "which file? (fleecefs-changed --help)");
    if ((options->since != NULL) + (options->part.until != NULL) + (options->part.maps != NULL) > 1)
        return fl_fail_usage(error, "--since, --between and --map exclude each other");
    if (json && null)
        return fl_fail_usage(error, "--json and --null exclude each other");
    if (null && options->paths[1] != NULL)
        return fl_fail_usage(error, "--null lists one file system, not several");
    if (options->since != NULL)
        options->part.since = options->since;
    options->extents = extents && json;
    options->report = (FlReport){
        .format = json   ? FL_REPORT_JSON
                  : null ? FL_REPORT_NAMES
                         : FL_REPORT_TEXT,
        .by_size = sort,
        .summary = depth >= 0,
        .depth = depth >= 0 ? (unsigned)depth : 0,
        .human = human,
    };
    return parse_kinds(only, &options->report.kinds, error) &&
           parse_time(newer, &options->part.newer, error);
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

/* In a process of its own. Returns the exit status. */
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
        g_string_append_printf(warnings,
                               "%s: %u inodes or folders are damaged: what is in them may be "
                               "missing\n",
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
        fprintf(stderr, "fleecefs-changed: %s: no process for it: %s\n", path, g_strerror(errno));
        return 1;
    }
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    fprintf(
        stderr,
        "fleecefs-changed: %s: its file system is damaged, or made to harm: what reads it ended "
        "with \"%s\"\n",
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
