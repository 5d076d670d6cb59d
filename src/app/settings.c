/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "settings.h"

#include "snapshot/provider.h"
#include "util/size.h"
#include "view/qcow2.h"

#include <stddef.h>
#include <string.h>

#define CONNECTIONS_MAX 64

/* Stores a copy of VALUE in *WHERE. */
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

static bool set_rate(FlOptions *options, const char *value, GError **error)
{
    g_autofree char *size =
        g_strndup(value, strlen(value) - (g_str_has_suffix(value, "/s") ? 2 : 0));

    options->rate_given = true;
    return fl_size_parse(size, &options->rate, error);
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
        return fl_fail_usage(error, "the name of a backing file must not exceed 1023 bytes");
    /* An empty variable in a script must not produce images that lack their base. */
    if (*value == '\0')
        return fl_fail_usage(
            error, "the name of the backing file is empty; for no backing file, write none");
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
           fl_fail_usage(error, "the cluster size must be a power of two from 512 to 2M, not %s",
                         value);
}

/* Stores VALUE as an absolute path, because the daemon changes its working directory. */
static bool keep_path(char **where, const char *value, GError **error)
{
    /* An empty variable in a script must not mean the working directory. */
    if (*value == '\0')
        return fl_fail_usage(error, "the path is empty");
    g_free(*where);
    *where = g_canonicalize_filename(value, NULL);
    return true;
}

static bool set_series(FlOptions *options, const char *value, GError **error)
{
    return keep(&options->series, value);
}

static bool set_disk(FlOptions *options, const char *value, GError **error)
{
    g_auto(GStrv) disks = g_strsplit(value, ":", -1);

    if (*value == '\0' || g_strv_contains((const char *const *)disks, ""))
        return fl_fail_usage(error, "empty name; write disk=NODE[:NODE...]");
    g_strfreev(options->disks);
    options->disks = g_steal_pointer(&disks);
    return true;
}

static bool set_agent(FlOptions *options, const char *value, GError **error)
{
    return keep_path(&options->agent, value, error);
}

static bool set_scratch(FlOptions *options, const char *value, GError **error)
{
    return keep_path(&options->scratch, value, error);
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
    return fl_fail_usage(error, "'%s' is not on, require or off", value);
}

static bool set_split(FlOptions *options, const char *value, GError **error)
{
    if (!fl_size_parse(value, &options->view.split, error))
        return false;
    return fl_split_size_valid(options->view.split) ||
           fl_fail_usage(error, "the size of pieces must be a power of two from 1M to 1G, not %s",
                         value);
}

static bool set_pidfile(FlOptions *options, const char *value, GError **error)
{
    return keep_path(&options->pidfile, value, error);
}

#define FLAG(member) offsetof(FlOptions, member)

static const FlSetting own[] = {
    {"foreground", NULL, "stay in the foreground", FL_GROUP_GENERAL, 'f', .word = true,
     .flag = FLAG(foreground)},
    {"debug", NULL, "log everything, with FUSE requests; implies -f", FL_GROUP_GENERAL, 'd',
     .flag = FLAG(debug), .use = FL_USE_ANY},
    {"verbose", NULL, "log connection events", FL_GROUP_GENERAL, 'v', .word = true,
     .flag = FLAG(verbose), .use = FL_USE_ANY},
    {"pidfile", "FILE", "write the process ID to FILE when ready", FL_GROUP_GENERAL, 'P',
     .word = true, .set = set_pidfile},
    {"option", "OPT[,OPT...]", "options below by name, and those of FUSE", FL_GROUP_GENERAL, 'o',
     .word = true, .use = FL_USE_ANY},
    {"sandbox", "HOW", "on, off, or require: fail if incomplete (on)", FL_GROUP_GENERAL,
     .set = set_sandbox},
    {"help", NULL, "show this help", FL_GROUP_GENERAL, 'h', .word = true,
     .command = FL_COMMAND_HELP},
    {"version", NULL, "show the version", FL_GROUP_GENERAL, 'V', .word = true,
     .command = FL_COMMAND_VERSION},

    {"list", NULL, "list all mounts (=json: as JSON)", FL_GROUP_MOUNTS, .word = true, .json = true,
     .command = FL_COMMAND_LIST},
    {"status", NULL, "show the status of a mount (=json: as JSON)", FL_GROUP_MOUNTS, .word = true,
     .json = true, .command = FL_COMMAND_STATUS},
    {"watch", NULL, "with status: refresh until the mount ends", FL_GROUP_MOUNTS, .word = true,
     .flag = FLAG(watch), .use = FL_USE_ANY},
    {"commit", NULL, "backup complete: move restore point, unmount", FL_GROUP_MOUNTS, .word = true,
     .command = FL_COMMAND_COMMIT},
    {"force", NULL, "with commit: even if not everything was read", FL_GROUP_MOUNTS, .word = true,
     .flag = FLAG(force), .use = FL_USE_ANY},
    {"abort", NULL, "backup failed: keep restore point, unmount", FL_GROUP_MOUNTS, .word = true,
     .command = FL_COMMAND_ABORT},

    {"recover", NULL, "clean up what a crash left in a VM", FL_GROUP_CLEANUP, .word = true,
     .command = FL_COMMAND_RECOVER},
    {"forget", NULL, "remove restore points from a VM or an image", FL_GROUP_CLEANUP, .word = true,
     .command = FL_COMMAND_FORGET},

    {"connections", "N", "maximum number of NBD connections per disk (4)", FL_GROUP_READING, 'C',
     .set = set_connections},
    {"cache", "SIZE", "memory for read-ahead data (64M)", FL_GROUP_READING, .set = set_cache},
    {"readahead", "SIZE", "bytes to read ahead; 0 disables (16M)", FL_GROUP_READING,
     .set = set_readahead},
    {"timeout", "SECONDS", "silence before a server counts as gone (30)", FL_GROUP_READING,
     .set = set_timeout, .use = FL_USE_SOURCE},
    {"reconnect", "SECONDS", "how long to try to reconnect; 0 disables (60)", FL_GROUP_READING,
     .set = set_reconnect},
    {"rate", "SIZE", "bytes per second to read, also for a MOUNTPOINT", FL_GROUP_READING,
     .set = set_rate, .use = FL_USE_ANY},
    {"direct_io", NULL, "leave the page cache to others", FL_GROUP_READING,
     .flag = FLAG(direct_io)},

    {"uid", "N", "owner of all files (the user who mounts)", FL_GROUP_FILES, .set = set_uid},
    {"gid", "N", "group of all files (the user who mounts)", FL_GROUP_FILES, .set = set_gid},
    {"backing", "NAME", "backing file of increments or none (../disk.raw)", FL_GROUP_FILES,
     .set = set_backing},
    {"backing_fmt", "FMT", "format of the backing file (raw)", FL_GROUP_FILES,
     .set = set_backing_fmt},
    {"cluster_size", "SIZE", "cluster size of qcow2 files (matches the bitmap)", FL_GROUP_FILES,
     .set = set_cluster_size},
    {"split", "SIZE", "size of the pieces in split/ (4M or more)", FL_GROUP_FILES,
     .set = set_split},

    {"series", "NAME", "series that the backup belongs to (last)", FL_GROUP_SNAPSHOTS,
     .set = set_series, .use = FL_USE_SOURCE},
    {"full", NULL, "take a full backup", FL_GROUP_SNAPSHOTS, .of_vms = true, .flag = FLAG(full)},
    {"disk", "NODE[:NODE...]", "only these disks (all writable disks)", FL_GROUP_SNAPSHOTS,
     .of_vms = true, .set = set_disk},
    {"read_only", NULL, "also back up read-only disks, in full", FL_GROUP_SNAPSHOTS, .of_vms = true,
     .flag = FLAG(read_only)},
    {"agent", "PATH", "freeze file systems through this agent socket", FL_GROUP_SNAPSHOTS,
     .of_vms = true, .set = set_agent, .use = FL_USE_SOURCE},
    {"agent_optional", NULL, "continue if the agent does not answer", FL_GROUP_SNAPSHOTS,
     .of_vms = true, .flag = FLAG(agent_optional)},
    {"freeze_timeout", "SECONDS", "maximum time the guest is frozen (10)", FL_GROUP_SNAPSHOTS,
     .of_vms = true, .set = set_freeze_timeout},
    {"scratch", "DIR", "where to save overwritten blocks (/var/tmp)", FL_GROUP_SNAPSHOTS,
     .of_vms = true, .set = set_scratch, .use = FL_USE_SOURCE},
    {"scratch_encrypt", NULL, "encrypt these blocks there", FL_GROUP_SNAPSHOTS, .of_vms = true,
     .flag = FLAG(scratch_encrypt)},
};

static void add_own(GArray *settings, const FlSourceOption *option, FlOptionGroup group)
{
    FlSetting setting = {
        .name = option->name,
        .value = option->value,
        .help = option->help,
        .group = group,
        .use = FL_USE_SOURCE,
        .of_vms = group == FL_GROUP_SNAPSHOTS,
        .own = option,
    };

    g_array_append_val(settings, setting);
}

static void add_kind_option(const FlSourceOption *option, void *settings)
{
    add_own(settings, option, FL_GROUP_SOURCES);
}

GArray *fl_settings_new(void)
{
    GArray *settings = g_array_new(FALSE, FALSE, sizeof(FlSetting));

    g_array_append_vals(settings, own, G_N_ELEMENTS(own));
    fl_source_options_foreach(add_kind_option, settings);
    for (const FlProvider *const *p = fl_providers; *p != NULL; p++) {
        const FlSourceOption *option = (*p)->options;

        for (; option != NULL && option->name != NULL; option++)
            add_own(settings, option, FL_GROUP_SNAPSHOTS);
    }
    return settings;
}

const FlSetting *fl_setting_find(const GArray *settings, const char *name)
{
    for (guint i = 0; i < settings->len; i++) {
        const FlSetting *setting = &g_array_index(settings, FlSetting, i);

        if (g_str_equal(setting->name, name))
            return setting;
    }
    return NULL;
}

static bool give_command(const FlSetting *setting, FlOptions *options, const char *value,
                         GError **error)
{
    if (options->command != FL_COMMAND_MOUNT && options->command != setting->command)
        return fl_fail_usage(error, "give only one of --status, --list, --commit, --abort, "
                                    "--recover and --forget");
    options->json = g_strcmp0(value, "json") == 0;
    if (value != NULL && !options->json)
        return fl_fail_usage(error, "--%s=%s: write --%s, or --%s=json for JSON", setting->name,
                             value, setting->name, setting->name);
    options->command = setting->command;
    return true;
}

bool fl_setting_apply(const FlSetting *setting, FlOptions *options, const char *value,
                      GError **error)
{
    if (setting->command != FL_COMMAND_MOUNT)
        return give_command(setting, options, value, error);
    if (setting->value != NULL && value == NULL)
        return fl_fail_usage(error, "option %s needs a value: %s=%s", setting->name, setting->name,
                             setting->value);
    if (setting->value == NULL && value != NULL)
        return fl_fail_usage(error, "option %s takes no value", setting->name);
    if (setting->use == FL_USE_MOUNT)
        options->mount_option = setting->name;
    if (setting->use == FL_USE_SOURCE)
        options->source_option = setting->name;
    if (setting->of_vms)
        options->snapshot_option = setting->name;
    if (setting->flag != 0)
        *(bool *)((char *)options + setting->flag) = true;
    if (setting->own != NULL)
        return fl_source_option_give(options->values, setting->own, value, error);
    if (setting->set == NULL || setting->set(options, value, error))
        return true;
    g_prefix_error(error, "option %s: ", setting->name);
    return false;
}
