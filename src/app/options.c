/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/options.h"

#include "app/option-list.h"
#include "app/vm-options.h"
#include "settings.h"
#include "snapshot/point.h"

#include <getopt.h>
#include <string.h>
#include <unistd.h>

/* Defaults chosen by measurement; see tests/bench. */
#define CONNECTIONS_DEFAULT    4
#define CACHE_DEFAULT          (UINT64_C(64) << 20)
#define READAHEAD_DEFAULT      (UINT64_C(16) << 20)
#define TIMEOUT_DEFAULT        30
#define RECONNECT_DEFAULT      60
#define FREEZE_TIMEOUT_DEFAULT 10

/* Return codes of getopt_long(): settings without a letter have codes above all letters. */
#define CODE_WORD    1
#define CODE_SETTING 256

/* libfuse and the kernel would refuse these with a message that names neither. */
static bool check_fuse_option(const char *option, GError **error)
{
    const char *value = strchr(option, '=');
    guint64 n;

    if (value != NULL && value[1] == '\0')
        return fl_fail_usage(error, "option '%s' needs a value", option);
    return !g_str_has_prefix(option, "max_read=") ||
           g_ascii_string_to_unsigned(value + 1, 10, 0, G_MAXUINT, &n, NULL) ||
           fl_fail_usage(error, "option '%s': not a number of bytes", option);
}

/* Applies an option "NAME" or "NAME=VALUE" of a list. */
static bool apply_listed(FlOptions *options, const GArray *settings, const char *option,
                         GError **error)
{
    g_auto(GStrv) parts = g_strsplit(option, "=", 2);
    const FlSetting *setting = fl_setting_find(settings, parts[0] != NULL ? parts[0] : "");

    if (setting != NULL && !setting->word)
        return fl_setting_apply(setting, options, parts[1], error);
    if (fl_option_is_for_fuse(option)) {
        g_ptr_array_add(options->fuse, g_strdup(option));
        options->mount_option = g_ptr_array_index(options->fuse, options->fuse->len - 1);
        return check_fuse_option(option, error);
    }
    if (!fl_option_is_for_mount(option))
        return fl_fail_usage(error, "unknown option '%s'; see fleecefs --help", option);
    return true;
}

static bool apply_list(FlOptions *options, const GArray *settings, const char *list, GError **error)
{
    g_auto(GStrv) all = fl_option_list_split(list);

    for (char **option = all; *option != NULL; option++) {
        if (!apply_listed(options, settings, *option, error))
            return false;
    }
    return true;
}

/* Returns a server's command line, without the brackets. *INDEX: of the word after '['. */
static char **take_server(char **argv, int *index, GError **error)
{
    g_autoptr(GPtrArray) server = g_ptr_array_new_with_free_func(g_free);

    for (; argv[*index] != NULL && !g_str_equal(argv[*index], "]"); (*index)++)
        g_ptr_array_add(server, g_strdup(argv[*index]));
    if (argv[*index] == NULL || server->len == 0) {
        fl_fail_usage(error, argv[*index] == NULL ? "'[' without ']': write [ SERVER ARGS... ]"
                                                  : "no server command between '[' and ']'");
        return NULL;
    }
    (*index)++;
    g_ptr_array_add(server, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&server), FALSE);
}

/* Adds a source that begins with WORD, not an option. *INDEX: of the next word. */
static bool add_source(FlOptions *options, const char *word, char **argv, int *index,
                       GError **error)
{
    char **server = NULL;

    if (g_str_equal(fl_source_spec_text(word), "[") &&
        (server = take_server(argv, index, error)) == NULL)
        return false;
    g_ptr_array_add(options->sources, fl_source_spec_new(word, server));
    return true;
}

/* Builds the tables of long options and of letters for getopt_long(). */
static struct option *make_table(const GArray *settings, GString *letters)
{
    struct option *table = g_new0(struct option, settings->len + 1);

    for (guint i = 0; i < settings->len; i++) {
        const FlSetting *setting = &g_array_index(settings, FlSetting, i);

        table[i] = (struct option){
            .name = setting->name,
            .has_arg = setting->json            ? optional_argument
                       : setting->value != NULL ? required_argument
                                                : no_argument,
            .val = CODE_SETTING + (int)i,
        };
        if (setting->letter != '\0')
            g_string_append_printf(letters, "%c%s", setting->letter,
                                   setting->value != NULL ? ":" : "");
    }
    return table;
}

static const FlSetting *find_code(const GArray *settings, int code)
{
    for (guint i = 0; i < settings->len; i++) {
        const FlSetting *setting = &g_array_index(settings, FlSetting, i);

        if (code == CODE_SETTING + (int)i || (code != 0 && code == setting->letter))
            return setting;
    }
    return NULL;
}

/* Sets the error for CODE, returned by getopt_long() for WORD or a letter in it. */
static bool fail_option(const GArray *settings, int code, const char *word, GError **error)
{
    const FlSetting *setting = find_code(settings, optopt);

    if (setting == NULL && optopt != 0)
        return fl_fail_usage(error, "unknown option -%c; see fleecefs --help", optopt);
    if (setting == NULL)
        return fl_fail_usage(error, "unknown option %s; see fleecefs --help", word);
    if (code == ':')
        return fl_fail_usage(error, "option %s needs a value: %s=%s", setting->name, setting->name,
                             setting->value);
    return fl_fail_usage(error, "option %s takes no value", setting->name);
}

/* LAST gets the last word that is not an option. Not thread-safe: getopt_long() keeps its state in
 * globals. */
static bool parse_words(FlOptions *options, const GArray *settings, char **argv, const char **last,
                        GError **error)
{
    /* '-': returns words in the order of ARGV; ':': reports missing values separately. */
    g_autoptr(GString) letters = g_string_new("-:");
    g_autofree struct option *table = make_table(settings, letters);
    int argc = (int)g_strv_length(argv), code;

    optind = 0; /* resets getopt_long() */
    opterr = 0;
    while ((code = getopt_long(argc, argv, letters->str, table, NULL)) != -1) {
        const FlSetting *setting = find_code(settings, code);
        bool ok;

        if (code == CODE_WORD)
            ok = add_source(options, *last = optarg, argv, &optind, error);
        else if (setting == NULL)
            ok = fail_option(settings, code, argv[MAX(optind - 1, 1)], error);
        else if (setting->letter == 'o')
            ok = apply_list(options, settings, optarg, error);
        else
            ok = fl_setting_apply(setting, options, optarg, error);
        if (!ok)
            return false;
    }
    while (argv[optind] != NULL) { /* after "--" */
        *last = argv[optind++];
        if (!add_source(options, *last, argv, &optind, error))
            return false;
    }
    return true;
}

/* Before the number of words is judged: without its command, an option would be said to lack a
 * mount point. */
static bool check_command(const FlOptions *options, GError **error)
{
    if (options->command == FL_COMMAND_HELP || options->command == FL_COMMAND_VERSION)
        return true;
    if (options->watch && (options->command != FL_COMMAND_STATUS || options->json))
        return fl_fail_usage(error,
                             "--watch requires --status%s: fleecefs --status --watch "
                             "MOUNTPOINT",
                             options->json ? " without =json" : "");
    if (options->rate_given && options->command != FL_COMMAND_MOUNT)
        return fl_fail_usage(error, "--rate changes a mount only without another command: fleecefs "
                                    "--rate=SIZE MOUNTPOINT");
    return !options->force || options->command == FL_COMMAND_COMMIT ||
           fl_fail_usage(error, "--force requires --commit: fleecefs --commit --force MOUNTPOINT");
}

/* LAST, the last word that is not an option, is the mount point, if the command has one. */
static bool take_mountpoint(FlOptions *options, const char *last, GError **error)
{
    guint n = options->sources->len;

    switch (options->command) {
    case FL_COMMAND_HELP:
    case FL_COMMAND_VERSION:
        return true;
    case FL_COMMAND_LIST:
        return n == 0 || fl_fail_usage(error, "--list takes no argument but =json, not '%s'", last);
    case FL_COMMAND_RECOVER:
    case FL_COMMAND_FORGET:
        return n == 1 || fl_fail_usage(error, "give one source");
    case FL_COMMAND_MOUNT:
        if (n == 1 && options->rate_given) {
            options->command = FL_COMMAND_RATE;
            break;
        }
        if (n < 2 || ((const FlSourceSpec *)options->sources->pdata[n - 1])->argv != NULL)
            return fl_fail_usage(error, "%s; usage: fleecefs [OPTIONS] SOURCE... MOUNTPOINT",
                                 n == 0 ? "no source and no mount point" : "no mount point");
        break;
    case FL_COMMAND_STATUS:
    case FL_COMMAND_COMMIT:
    case FL_COMMAND_ABORT:
    case FL_COMMAND_RATE:
        if (n != 1)
            return fl_fail_usage(error, "give exactly one mount point");
        break;
    }
    /* An empty variable in a script must not mean the working directory. */
    if (*last == '\0')
        return fl_fail_usage(error, "the name of the mount point is empty");
    options->mountpoint = g_canonicalize_filename(last, NULL);
    g_ptr_array_set_size(options->sources, (int)n - 1);
    return true;
}

/* Rejects options that would be ignored. */
static bool check_use(const FlOptions *options, GError **error)
{
    const char *option = options->mount_option;

    switch (options->command) {
    case FL_COMMAND_MOUNT:
    case FL_COMMAND_HELP:
    case FL_COMMAND_VERSION:
        return true;
    case FL_COMMAND_RECOVER:
    case FL_COMMAND_FORGET:
        break;
    case FL_COMMAND_STATUS:
    case FL_COMMAND_COMMIT:
    case FL_COMMAND_ABORT:
    case FL_COMMAND_RATE:
    case FL_COMMAND_LIST:
        option = option != NULL ? option : options->source_option;
        break;
    }
    return option == NULL ||
           fl_fail_usage(
               error, "option %s has an effect only when mounting%s: leave it out%s", option,
               option == options->mount_option ? "" : ", and with --recover and --forget",
               options->command == FL_COMMAND_RATE ? ", or give SOURCE and MOUNTPOINT" : "");
}

static bool check(const FlOptions *options, GError **error)
{
    if (options->series != NULL && !fl_series_check(options->series, error))
        return false;
    for (guint i = 0; i < options->sources->len; i++) {
        const FlSourceSpec *spec = options->sources->pdata[i];

        if (g_strcmp0(spec->text, "") == 0)
            return fl_fail_usage(error, "the name of a source is empty");
    }
    return fl_sources_check_options(options, error);
}

FlOptions *fl_options_parse(char **argv, GError **error)
{
    g_autoptr(FlOptions) options = g_new0(FlOptions, 1);
    g_autoptr(GArray) settings = fl_settings_new();
    const char *last = NULL;

    options->sources = g_ptr_array_new_with_free_func((GDestroyNotify)fl_source_spec_free);
    options->values = g_ptr_array_new_with_free_func((GDestroyNotify)fl_source_value_free);
    options->fuse = g_ptr_array_new_with_free_func(g_free);
    options->uid = getuid();
    options->gid = getgid();
    options->disk.connections = CONNECTIONS_DEFAULT;
    options->disk.timeout = TIMEOUT_DEFAULT;
    options->disk.reconnect = RECONNECT_DEFAULT;
    options->freeze_timeout = FREEZE_TIMEOUT_DEFAULT;
    options->view.cache = CACHE_DEFAULT;
    options->view.readahead = READAHEAD_DEFAULT;

    if (!parse_words(options, settings, argv, &last, error) || !check_command(options, error) ||
        !take_mountpoint(options, last, error) || !check_use(options, error) ||
        !check(options, error))
        return NULL;
    g_ptr_array_add(options->fuse, NULL);
    if (options->debug)
        options->foreground = true;
    if (options->command == FL_COMMAND_HELP)
        options->help = fl_settings_help(settings);
    return g_steal_pointer(&options);
}

void fl_options_free(FlOptions *options)
{
    if (options == NULL)
        return;
    if (options->sources != NULL)
        g_ptr_array_unref(options->sources);
    if (options->fuse != NULL)
        g_ptr_array_unref(options->fuse);
    if (options->values != NULL)
        g_ptr_array_unref(options->values);
    g_free(options->mountpoint);
    g_free(options->pidfile);
    g_free(options->view.backing);
    g_free(options->view.backing_fmt);
    g_free(options->series);
    g_free(options->agent);
    g_free(options->scratch);
    g_strfreev(options->disks);
    g_free(options->help);
    g_free(options);
}
