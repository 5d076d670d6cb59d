/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/status.h"

#include "config.h"
#include "export-private.h"
#include "figures.h"
#include "util/json.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static gint64 count_entries(const char *path)
{
    DIR *dir = opendir(path);
    gint64 n = -2; /* . and .. */

    if (dir == NULL)
        return -1;
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

/* Resident memory of the daemon in bytes; -1 if unknown. */
static gint64 resident_bytes(void)
{
    g_autofree char *text = NULL;
    gint64 pages;

    /* proc(5): the second number is the resident set. */
    if (!g_file_get_contents("/proc/self/statm", &text, NULL, NULL) ||
        sscanf(text, "%*d %" G_GINT64_FORMAT, &pages) != 1)
        return -1;
    return pages * sysconf(_SC_PAGESIZE);
}

/* The number of extents in all maps of an export. */
static gint64 count_extents(const FlDiskMaps *maps)
{
    gint64 n = 0;

    for (guint i = 0; i < maps->maps->len; i++)
        n += (gint64)fl_map_count(maps->maps->pdata[i]);
    return n;
}

/* Adds the values that are known. */
static void add_figures(JsonBuilder *json, FlExport *export)
{
    FlFigures figures;
    const struct {
        const char *name;
        const uint64_t *value;
    } table[] = {
        {"data_bytes", &figures.data_bytes},
        {"data_covered_bytes", &figures.data_covered},
        {"dirty_bytes", &figures.dirty_bytes},
        {"dirty_covered_bytes", &figures.dirty_covered},
        {"wanted_bytes", &figures.wanted_bytes},
        {"covered_bytes", &figures.covered_bytes},
        {"pieces_changed", &figures.pieces_changed},
        {"pieces_read", &figures.pieces_read},
        {"scratch_used", &figures.scratch_used},
        {"scratch_limit", &figures.scratch_limit},
        {"open_files", &figures.open_files},
        {"connections", &figures.connections},
        {"requests_in_flight", &figures.in_flight},
        {"requests_waiting", &figures.waiting},
        {"requests", &figures.requests},
        {"bytes_read", &figures.bytes_read},
        {"read_rate", &figures.read_rate},
        {"errors", &figures.errors},
        {"reconnects", &figures.reconnects},
    };

    fl_figures_collect(&figures, export);
    for (guint i = 0; i < G_N_ELEMENTS(table); i++) {
        if (*table[i].value != FL_UNKNOWN)
            fl_json_add_int(json, table[i].name, (gint64)*table[i].value);
    }
}

static void add_export(JsonBuilder *json, FlExport *export)
{
    FlDisk *disk = fl_export_disk(export);
    const FlOrigin *origin = fl_export_origin(export);
    const char *failure = fl_disk_failure(disk);
    g_autofree char *time = fl_time_format(&origin->time);

    json_builder_begin_object(json);
    fl_json_add_string(json, "name", origin->folder);
    fl_json_add_string(json, "source", fl_disk_label(disk));
    fl_json_add_int(json, "size", (gint64)fl_disk_info(disk)->size);
    fl_json_add_string(json, "state", failure != NULL ? "failed" : "ok");
    fl_json_add_string(json, "failure", failure);
    fl_json_add_string(json, "point_in_time", time);
    fl_json_add_string(json, "mode", origin->chain.mode);
    fl_json_add_string(json, "restore_point", origin->chain.restore_point);
    fl_json_add_string(json, "base", origin->chain.base);
    if (origin->snapshot.taken) {
        fl_json_add_int(json, "begin_ms", origin->snapshot.begin_ms);
        fl_json_add_int(json, "held_ms", origin->snapshot.held_ms);
        fl_json_add_int(json, "frozen_ms", origin->snapshot.frozen_ms);
    }
    fl_json_add_bool(json, "maps_loaded", fl_disk_maps(disk) != NULL);
    fl_json_add_bool(json, "connecting", fl_disk_stats(disk)->connecting);
    fl_json_add_bool(json, "relay", fl_disk_stats(disk)->relay);
    if (fl_disk_maps(disk) != NULL)
        fl_json_add_int(json, "extents", count_extents(fl_disk_maps(disk)));
    add_figures(json, export);
    json_builder_end_object(json);
}

static void add_strings(JsonBuilder *json, const char *name, char **strings)
{
    json_builder_set_member_name(json, name);
    json_builder_begin_array(json);
    for (char **string = strings; *string != NULL; string++) {
        g_autofree char *valid = g_utf8_make_valid(*string, -1);
        json_builder_add_string_value(json, valid);
    }
    json_builder_end_array(json);
}

static GBytes *make_status(void *opaque)
{
    const FlStatus *status = opaque;
    const GPtrArray *exports = fl_tree_exports(status->tree);
    g_autoptr(JsonBuilder) json = json_builder_new();
    g_autofree char *since = fl_time_format(&status->since);

    json_builder_begin_object(json);
    fl_json_add_string(json, "version", FL_VERSION);
    fl_json_add_int(json, "pid", getpid());
    fl_json_add_int(json, "pid_namespace", (gint64)status->pid_namespace);
    fl_json_add_string(json, "mountpoint", status->mountpoint);
    add_strings(json, "sources", status->sources);
    if (*status->missing_disks != NULL)
        add_strings(json, "missing_disks", status->missing_disks);
    fl_json_add_string(json, "series", status->series);
    fl_json_add_string(json, "since", since);
    fl_json_add_string(json, "sandbox",
                       !status->sandbox                  ? "off"
                       : status->sandbox_missing != NULL ? "open"
                                                         : "closed");
    fl_json_add_string(json, "sandbox_missing", status->sandbox_missing);
    fl_json_add_int(json, "cache_bytes", (gint64)fl_cache_used(status->cache));
    fl_json_add_int(json, "cache_limit", (gint64)status->options->cache);
    if (status->throttle->rate > 0)
        fl_json_add_int(json, "rate_limit", (gint64)status->throttle->rate);
    fl_json_add_int(json, "file_descriptors", count_entries("/proc/self/fd"));
    fl_json_add_int(json, "memory_bytes", resident_bytes());
    fl_json_add_int(json, "threads", count_entries("/proc/self/task"));
    json_builder_set_member_name(json, "exports");
    json_builder_begin_array(json);
    for (guint i = 0; i < exports->len; i++)
        add_export(json, exports->pdata[i]);
    json_builder_end_array(json);
    json_builder_end_object(json);
    return fl_json_text(json);
}

void fl_status_add(FlStatus *status)
{
    struct stat st;

    status->pid_namespace = stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
    fl_tree_add_text(status->tree, ".fleecefs/status.json", make_status, status);
}
