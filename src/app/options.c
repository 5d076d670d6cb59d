/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/options.h"

#include "app/option-list.h"
#include "app/sources.h"
#include "snapshot/provider.h"
#include "util/size.h"
#include "view/qcow2.h"

#include <string.h>
#include <unistd.h>

/* Defaults that measurements chose; see tests/bench. */
#define CONNECTIONS_DEFAULT    4
#define CONNECTIONS_MAX        64
#define CACHE_DEFAULT          (UINT64_C(64) << 20)
#define READAHEAD_DEFAULT      (UINT64_C(16) << 20)
#define TIMEOUT_DEFAULT        30
#define RECONNECT_DEFAULT      60
#define FREEZE_TIMEOUT_DEFAULT 10

/* An option that -o NAME[=VALUE] and --NAME[=VALUE] both set. */
typedef struct {
    const char *name;
    const char *value; /* what it is called in --help; NULL: takes none */
    const char *help;
    /* NULL: it is one of a provider of snapshots. */
    bool (*set)(FlOptions *options, const char *value, GError **error);
    bool of_snapshots; /* says nothing to other sources */
} Setting;

/* Keeps a copy of VALUE in *WHERE. */
static bool keep(char **where, const char *value)
{
    g_free(*where);
    *where = g_strdup(value);
    return true;
}

static bool set_cache(FlOptions *options, const char *value, GError **error)
{
    return fl_size_parse(value, &options->view.cache, error);
}

static bool set_readahead(FlOptions *options, const char *value, GError **error)
{
    return fl_size_parse(value, &options->view.readahead, error);
}

static bool set_timeout(FlOptions *options, const char *value, GError **error)
{
    if (!fl_seconds_parse(value, &options->disk.timeout, error))
        return false;
    return options->disk.timeout > 0 || fl_fail_usage(error, "a timeout of 0 seconds is too short");
}

static bool set_reconnect(FlOptions *options, const char *value, GError **error)
{
    return fl_seconds_parse(value, &options->disk.reconnect, error);
}

static bool set_connections(FlOptions *options, const char *value, GError **error)
{
    guint64 n;

    if (!g_ascii_string_to_unsigned(value, 10, 1, CONNECTIONS_MAX, &n, NULL))
        return fl_fail_usage(error, "'%s' is not a number of connections from 1 to %d", value,
                             CONNECTIONS_MAX);
    options->disk.connections = (unsigned)n;
    return true;
}

static bool set_backing(FlOptions *options, const char *value, GError **error)
{
    if (strlen(value) > 1023)
        return fl_fail_usage(error, "a backing file's name has at most 1023 bytes");
    /* A script's empty variable must not make images that read as zeros without their base. */
    if (*value == '\0')
        return fl_fail_usage(error,
                             "no name of a backing file; if there is to be none, write none");
    g_free(options->view.backing);
    options->view.backing = g_strdup(value);
    return true;
}

static bool set_backing_fmt(FlOptions *options, const char *value, GError **error)
{
    return keep(&options->view.backing_fmt, value);
}

static bool set_cluster_size(FlOptions *options, const char *value, GError **error)
{
    if (!fl_size_parse(value, &options->view.cluster_size, error))
        return false;
    return fl_qcow2_cluster_size_valid(options->view.cluster_size) ||
           fl_fail_usage(error, "a cluster size is a power of two from 512 to 2M, not %s", value);
}

/* The same as an absolute path: the daemon leaves the folder it started in. */
static bool keep_path(char **where, const char *value)
{
    g_free(*where);
    *where = g_canonicalize_filename(value, NULL);
    return true;
}

static bool set_series(FlOptions *options, const char *value, GError **error)
{
    return keep(&options->series, value);
}

static bool set_own(FlOptions *options, const char *name, const char *value, GError **error)
{
    const FlProviderOption *option = fl_providers_option(name);

    if (option != NULL && option->check != NULL && !option->check(value, error))
        return false;
    g_hash_table_insert(options->own, g_strdup(name), g_strdup(value));
    return true;
}

static bool set_disk(FlOptions *options, const char *value, GError **error)
{
    g_auto(GStrv) disks = g_strsplit(value, ":", -1);

    if (*value == '\0' || g_strv_contains((const char *const *)disks, ""))
        return fl_fail_usage(error, "option disk: a name is empty: disk=NODE[:NODE...]");
    g_strfreev(options->disks);
    options->disks = g_steal_pointer(&disks);
    return true;
}

static bool set_agent(FlOptions *options, const char *value, GError **error)
{
    return keep_path(&options->agent, value);
}

static bool set_scratch(FlOptions *options, const char *value, GError **error)
{
    return keep_path(&options->scratch, value);
}

static bool set_full(FlOptions *options, const char *value, GError **error)
{
    options->full = true;
    return true;
}

static bool set_agent_optional(FlOptions *options, const char *value, GError **error)
{
    options->agent_optional = true;
    return true;
}

static bool set_freeze_timeout(FlOptions *options, const char *value, GError **error)
{
    return fl_seconds_parse(value, &options->freeze_timeout, error);
}

static bool parse_id(const char *value, guint *id, GError **error)
{
    guint64 n;

    if (!g_ascii_string_to_unsigned(value, 10, 0, G_MAXUINT - 1, &n, NULL))
        return fl_fail_usage(error, "'%s' is not a numeric id", value);
    *id = (guint)n;
    return true;
}

static bool set_uid(FlOptions *options, const char *value, GError **error)
{
    return parse_id(value, &options->uid, error);
}

static bool set_gid(FlOptions *options, const char *value, GError **error)
{
    return parse_id(value, &options->gid, error);
}

static bool set_sandbox(FlOptions *options, const char *value, GError **error)
{
    static const char *const modes[] = {"on", "require", "off"};

    for (guint i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (g_str_equal(value, modes[i])) {
            options->sandbox = (FlSandboxMode)i;
            return true;
        }
    }
    return fl_fail_usage(error, "option sandbox: '%s' is none of on, require and off", value);
}

static bool set_split(FlOptions *options, const char *value, GError **error)
{
    if (!fl_size_parse(value, &options->view.split, error))
        return false;
    return fl_split_size_valid(options->view.split) ||
           fl_fail_usage(error, "the size of pieces is a power of two from 1M to 1G, not %s",
                         value);
}

static const Setting settings[] = {
    {"connections", "N", "NBD connections per export, at most (4)", set_connections},
    {"cache", "SIZE", "memory for data read ahead (64M)", set_cache},
    {"readahead", "SIZE", "bytes to read ahead; 0 disables (16M)", set_readahead},
    {"timeout", "SECONDS", "of silence before a server counts as gone (30)", set_timeout},
    {"reconnect", "SECONDS", "to try to reconnect to a server; 0 disables (60)", set_reconnect},
    {"backing", "NAME", "of qcow2 increments; or: none (../disk.raw)", set_backing},
    {"backing_fmt", "FMT", "its format (raw)", set_backing_fmt},
    {"split", "SIZE", "of the pieces in split/ (4M or more)", set_split},
    {"cluster_size", "SIZE", "of the qcow2 files (as fits the bitmap)", set_cluster_size},
    {"series", "NAME", "the series of backups it is part of (last)", set_series},
    {"disk", "NODE[:NODE...]", "only these disks (all that can be written)", set_disk, true},
    {"since", "CHECKPOINT", "libvirt: what changed since then (our last)", NULL, true},
    {"full", NULL, "a full backup, whatever was backed up before", set_full, true},
    {"agent", "PATH", "guest agent's socket: file systems are frozen", set_agent, true},
    {"agent_optional", NULL, "go on if the agent does not answer", set_agent_optional, true},
    {"freeze_timeout", "SECONDS", "the guest is frozen no longer than that (10)",
     set_freeze_timeout, true},
    {"scratch", "DIR", "keeps what the guest overwrites (/var/tmp)", set_scratch, true},
    {"nbd", "URI", "an NBD server that runs in the VM already", NULL, true},
    {"sandbox", "HOW", "require: or do not mount; off (on)", set_sandbox},
    {"uid", "N", "owner of all files (who mounts)", set_uid},
    {"gid", "N", "group of all files (who mounts)", set_gid},
};

static bool apply(FlOptions *options, const Setting *setting, const char *value, GError **error)
{
    if (setting->value != NULL && value == NULL)
        return fl_fail_usage(error, "option %s needs a value: %s=%s", setting->name, setting->name,
                             setting->value);
    if (setting->value == NULL && value != NULL)
        return fl_fail_usage(error, "option %s takes no value", setting->name);
    if (setting->of_snapshots)
        options->snapshot_option = setting->name;
    if (setting->set == NULL ? !set_own(options, setting->name, value, error)
                             : !setting->set(options, value, error)) {
        g_prefix_error(error, "option %s: ", setting->name);
        return false;
    }
    return true;
}

static bool apply_one(FlOptions *options, const char *option, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(option, "=", 2);

    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        if (g_strcmp0(parts[0], settings[i].name) == 0)
            return apply(options, &settings[i], parts[1], error);
    }
    if (parts[0] != NULL && fl_source_option_find(parts[0]) != NULL)
        return fl_source_option_give(options->values, parts[0], parts[1], error);
    if (g_str_equal(option, "debug"))
        options->debug = true;
    else if (fl_option_is_for_fuse(option))
        g_ptr_array_add(options->fuse, g_strdup(option));
    else if (!fl_option_is_for_mount(option))
        return fl_fail_usage(error, "option '%s' is not known; see fleecefs --help", option);
    return true;
}

static gboolean on_dash_o(const gchar *name, const gchar *value, gpointer data, GError **error)
{
    g_auto(GStrv) all = fl_option_list_split(value);

    for (char **o = all; *o != NULL; o++) {
        if (!apply_one(data, *o, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean on_setting(const gchar *name, const gchar *value, gpointer data, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        if (g_str_equal(name + strspn(name, "-"), settings[i].name))
            return apply(data, &settings[i], value, error);
    }
    if (fl_source_option_find(name + strspn(name, "-")) != NULL)
        return fl_source_option_give(((FlOptions *)data)->values, name + strspn(name, "-"), value,
                                     error);
    return on_setting("--connections", value, data, error); /* -C */
}

static gboolean set_command(FlOptions *options, FlCommand command, GError **error)
{
    if (options->command != FL_COMMAND_MOUNT && options->command != command)
        return fl_fail_usage(error, "give only one of --status, --list, --commit, --abort, "
                                    "--recover and --forget");
    options->command = command;
    return TRUE;
}

static gboolean on_command(const gchar *name, const gchar *value, gpointer data, GError **error)
{
    static const struct {
        const char *name;
        FlCommand command;
    } commands[] = {{"--version", FL_COMMAND_VERSION}, {"-V", FL_COMMAND_VERSION},
                    {"--help", FL_COMMAND_HELP},       {"-h", FL_COMMAND_HELP},
                    {"--commit", FL_COMMAND_COMMIT},   {"--abort", FL_COMMAND_ABORT},
                    {"--recover", FL_COMMAND_RECOVER}, {"--forget", FL_COMMAND_FORGET}};

    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (g_str_equal(name, commands[i].name))
            return set_command(data, commands[i].command, error);
    }
    return FALSE;
}

static gboolean on_status(const gchar *name, const gchar *value, gpointer data, GError **error)
{
    FlOptions *options = data;

    /* GLib takes the next argument for the value: it is the mount point then. */
    options->json = g_strcmp0(value, "json") == 0;
    if (value != NULL && !options->json)
        options->mountpoint = g_canonicalize_filename(value, NULL);
    return set_command(options, FL_COMMAND_STATUS, error);
}

static gboolean on_list(const gchar *name, const gchar *value, gpointer data, GError **error)
{
    FlOptions *options = data;

    options->json = g_strcmp0(value, "json") == 0;
    if (value != NULL && !options->json)
        return fl_fail_usage(error, "--list takes no argument but =json, not '%s'", value);
    return set_command(options, FL_COMMAND_LIST, error);
}

static void add_source_option(const FlSourceOption *option, void *entries)
{
    GOptionEntry entry = {.long_name = option->name,
                          .flags = G_OPTION_FLAG_FILENAME,
                          .arg = G_OPTION_ARG_CALLBACK,
                          .arg_data = (gpointer)on_setting,
                          .description = option->help,
                          .arg_description = option->value};

    g_array_append_val(entries, entry);
}

/* The options for GLib: those with a spelling of their own, then the settings. */
static GOptionContext *make_context(FlOptions *options, GArray *entries)
{
    GOptionContext *context = g_option_context_new("[NAME=]SOURCE... MOUNTPOINT");
    GOptionGroup *group = g_option_group_new("fleecefs", NULL, NULL, options, NULL);
    /* Paths need not be text of the locale. */
    int flag = G_OPTION_FLAG_NO_ARG, optional = G_OPTION_FLAG_OPTIONAL_ARG,
        bytes = G_OPTION_FLAG_FILENAME;
    const GOptionEntry own[] = {
        {"foreground", 'f', 0, G_OPTION_ARG_NONE, &options->foreground, "stay in the foreground",
         NULL},
        {"debug", 'd', 0, G_OPTION_ARG_NONE, &options->debug,
         "log everything, FUSE requests too; implies -f", NULL},
        {"verbose", 'v', 0, G_OPTION_ARG_NONE, &options->verbose, "log what happens to connections",
         NULL},
        {"pidfile", 'P', 0, G_OPTION_ARG_FILENAME, &options->pidfile,
         "write the process id there when it is ready", "FILE"},
        {"option", 'o', bytes, G_OPTION_ARG_CALLBACK, (gpointer)on_dash_o,
         "those below by name, and FUSE's (allow_other)", "OPT[,OPT...]"},
        {"status", 0, optional, G_OPTION_ARG_CALLBACK, (gpointer)on_status,
         "show what a mount does; =json: as JSON", NULL},
        {"watch", 0, 0, G_OPTION_ARG_NONE, &options->watch, "with status: until the mount ends",
         NULL},
        {"list", 0, optional, G_OPTION_ARG_CALLBACK, (gpointer)on_list,
         "list all mounts; =json: as JSON", NULL},
        {"commit", 0, flag, G_OPTION_ARG_CALLBACK, (gpointer)on_command,
         "done: keep the new restore point, unmount", NULL},
        {"force", 0, 0, G_OPTION_ARG_NONE, &options->force,
         "commit although not everything was read", NULL},
        {"abort", 0, flag, G_OPTION_ARG_CALLBACK, (gpointer)on_command,
         "not done: keep the old one, unmount", NULL},
        {"recover", 0, flag, G_OPTION_ARG_CALLBACK, (gpointer)on_command,
         "put back what a crash left in a VM", NULL},
        {"forget", 0, flag, G_OPTION_ARG_CALLBACK, (gpointer)on_command,
         "remove all restore points from a VM or an image", NULL},
        {"help", 'h', flag, G_OPTION_ARG_CALLBACK, (gpointer)on_command, "show this", NULL},
        {"version", 'V', flag, G_OPTION_ARG_CALLBACK, (gpointer)on_command, "show the version",
         NULL},
    };

    g_array_append_vals(entries, own, G_N_ELEMENTS(own));
    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        GOptionEntry entry = {
            .long_name = settings[i].name,
            .short_name = g_str_equal(settings[i].name, "connections") ? 'C' : 0,
            .flags = settings[i].value == NULL ? flag : bytes,
            .arg = G_OPTION_ARG_CALLBACK,
            .arg_data = (gpointer)on_setting,
            .description = settings[i].help,
            .arg_description = settings[i].value,
        };
        g_array_append_val(entries, entry);
    }
    fl_source_options_foreach(add_source_option, entries);
    g_option_group_add_entries(group, (const GOptionEntry *)(void *)entries->data);
    g_option_context_set_main_group(context, group);
    g_option_context_set_help_enabled(context, FALSE);
    g_option_context_set_summary(
        context, "Mounts the disks of virtual machines as read-only files. SOURCE is an NBD URI,\n"
                 "an image file, a folder of pieces, backup:FOLDER, qmp:PATH, libvirt:DOMAIN,\n"
                 "or a server in brackets:\n"
                 "  fleecefs [ SERVER ARGS... ] MOUNTPOINT");
    return context;
}

/* GLib wants the value of a short option in an argument of its own; getopt does not, nor do those
 * who write -oallow_other. */
static void take_word(GPtrArray *rest, const char *word)
{
    if (word[0] == '-' && word[1] != '\0' && strchr("CPo", word[1]) != NULL && word[2] != '\0') {
        g_ptr_array_add(rest, g_strndup(word, 2));
        word += 2;
    }
    g_ptr_array_add(rest, g_strdup(word));
}

/*
 * Takes the servers in brackets out of ARGV, leaving for each an argument "[" to stand for it; what
 * is between brackets is not ours to parse.
 */
static char **take_servers(char **argv, GPtrArray *servers, GError **error)
{
    g_autoptr(GPtrArray) rest = g_ptr_array_new_with_free_func(g_free);
    bool options = true;

    for (; *argv != NULL; argv++) {
        const char *text = fl_source_spec_text(*argv);
        g_autoptr(GPtrArray) server = NULL;

        options = options && !g_str_equal(*argv, "--");
        if (options && g_str_has_prefix(*argv, "--status=") &&
            !g_str_equal(*argv, "--status=json")) {
            fl_fail_usage(error, "%s: the status is shown as a page, or as JSON: --status=json",
                          *argv);
            return NULL;
        }
        if (options)
            take_word(rest, *argv);
        else
            g_ptr_array_add(rest, g_strdup(*argv));
        if (!g_str_equal(text, "["))
            continue;
        server = g_ptr_array_new_with_free_func(g_free);
        while (*++argv != NULL && !g_str_equal(*argv, "]"))
            g_ptr_array_add(server, g_strdup(*argv));
        if (*argv == NULL || server->len == 0) {
            fl_fail_usage(error, *argv == NULL ? "'[' without ']': write [ SERVER ARGS... ]"
                                               : "no server between '[' and ']'");
            return NULL;
        }
        g_ptr_array_add(server, NULL);
        g_ptr_array_add(servers, g_ptr_array_free(g_steal_pointer(&server), FALSE));
    }
    g_ptr_array_add(rest, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&rest), FALSE);
}

/* What is left of the command line after the options: sources and the mount point. */
static bool take_arguments(FlOptions *options, char **args, GPtrArray *servers, GError **error)
{
    guint n = g_strv_length(args), server = 0;
    bool has_mountpoint =
        options->command != FL_COMMAND_RECOVER && options->command != FL_COMMAND_FORGET;

    if (n == 0 && options->mountpoint != NULL)
        return true;

    switch (options->command) {
    case FL_COMMAND_HELP:
    case FL_COMMAND_VERSION:
        return true;
    case FL_COMMAND_LIST:
        return n == 0 ||
               fl_fail_usage(error, "--list takes no argument but =json, not '%s'", args[0]);
    case FL_COMMAND_MOUNT:
        if (n < 2)
            return fl_fail_usage(error, "%s; usage: fleecefs [OPTIONS] SOURCE... MOUNTPOINT",
                                 n == 0 ? "no source and no mount point" : "no mount point");
        break;
    case FL_COMMAND_STATUS:
    case FL_COMMAND_COMMIT:
    case FL_COMMAND_ABORT:
    case FL_COMMAND_RECOVER:
    case FL_COMMAND_FORGET:
        if (n + (options->mountpoint != NULL) != 1)
            return fl_fail_usage(error, "give one %s", has_mountpoint ? "mount point" : "source");
        break;
    }
    for (guint i = 0; i + has_mountpoint < n; i++) {
        bool bracket = g_str_equal(args[i], "[") || g_str_has_suffix(args[i], "=[");
        char **server_argv =
            bracket && server < servers->len ? g_steal_pointer(&servers->pdata[server++]) : NULL;

        g_ptr_array_add(options->sources, fl_source_spec_new(args[i], server_argv));
    }
    g_clear_pointer(&options->mountpoint, g_free);
    if (has_mountpoint)
        options->mountpoint = g_canonicalize_filename(args[n - 1], NULL);
    return true;
}

FlOptions *fl_options_parse(char **argv, GError **error)
{
    g_autoptr(FlOptions) options = g_new0(FlOptions, 1);
    g_autoptr(GArray) entries = g_array_new(TRUE, TRUE, sizeof(GOptionEntry));
    g_autoptr(GOptionContext) context = make_context(options, entries);
    g_autoptr(GPtrArray) servers = g_ptr_array_new_with_free_func((GDestroyNotify)g_strfreev);
    g_autoptr(GError) why = NULL;
    g_auto(GStrv) args = NULL;

    options->sources = g_ptr_array_new_with_free_func((GDestroyNotify)fl_source_spec_free);
    options->values = g_ptr_array_new_with_free_func((GDestroyNotify)fl_source_value_free);
    options->fuse = g_ptr_array_new_with_free_func(g_free);
    options->own = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    options->uid = getuid();
    options->gid = getgid();
    options->disk.connections = CONNECTIONS_DEFAULT;
    options->disk.timeout = TIMEOUT_DEFAULT;
    options->disk.reconnect = RECONNECT_DEFAULT;
    options->freeze_timeout = FREEZE_TIMEOUT_DEFAULT;
    options->view.cache = CACHE_DEFAULT;
    options->view.readahead = READAHEAD_DEFAULT;

    args = take_servers(argv, servers, error);
    if (args == NULL)
        return NULL;
    options->help = g_option_context_get_help(context, TRUE, NULL);
    if (!g_option_context_parse_strv(context, &args, &why)) {
        fl_fail_usage(error, "%s", why->message);
        return NULL;
    }
    if (options->watch && (options->command != FL_COMMAND_STATUS || options->json)) {
        fl_fail_usage(error, "--watch is for --status, as a page");
        return NULL;
    }
    if (!take_arguments(options, args + 1, servers, error) ||
        !fl_sources_check_options(options, error))
        return NULL;
    g_ptr_array_add(options->fuse, NULL);
    if (options->debug)
        options->foreground = true;
    if (options->pidfile != NULL) {
        g_autofree char *given = options->pidfile;
        options->pidfile = g_canonicalize_filename(given, NULL);
    }
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
    g_free(options->mountpoint);
    g_free(options->pidfile);
    g_free(options->view.backing);
    g_free(options->view.backing_fmt);
    if (options->values != NULL)
        g_ptr_array_unref(options->values);
    g_free(options->series);
    g_free(options->agent);
    g_free(options->scratch);
    g_hash_table_unref(options->own);
    g_strfreev(options->disks);
    g_free(options->help);
    g_free(options);
}
