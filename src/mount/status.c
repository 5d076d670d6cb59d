/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/status.h"

#include "config.h"
#include "export-private.h"
#include "util/json.h"

#include <dirent.h>
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

static void add_export(JsonBuilder *json, FlExport *export)
{
    FlDisk *disk = fl_export_disk(export);
    const FlDiskStats *stats = fl_disk_stats(disk);
    const char *failure = fl_disk_failure(disk);

    json_builder_begin_object(json);
    fl_json_add_string(json, "name", fl_export_origin(export)->folder);
    fl_json_add_string(json, "source", fl_disk_label(disk));
    fl_json_add_int(json, "size", (gint64)fl_disk_info(disk)->size);
    fl_json_add_string(json, "state", failure != NULL ? "failed" : "ok");
    fl_json_add_string(json, "failure", failure);
    fl_json_add_bool(json, "maps_loaded", fl_disk_maps(disk) != NULL);
    if (fl_export_origin(export)->snapshot && fl_disk_maps(disk) != NULL) {
        uint64_t wanted, delivered;

        fl_export_coverage(export, &wanted, &delivered);
        fl_json_add_int(json, "wanted_bytes", (gint64)wanted);
        fl_json_add_int(json, "covered_bytes", (gint64)delivered);
    }
    fl_json_add_int(json, "open_files", export->opened);
    fl_json_add_int(json, "connections", stats->connections);
    fl_json_add_bool(json, "connecting", stats->connecting);
    fl_json_add_int(json, "requests_in_flight", stats->in_flight);
    fl_json_add_int(json, "requests_waiting", stats->queued);
    fl_json_add_int(json, "requests", (gint64)stats->requests);
    fl_json_add_int(json, "bytes_read", (gint64)stats->bytes_read);
    fl_json_add_int(json, "errors", (gint64)stats->errors);
    fl_json_add_int(json, "reconnects", (gint64)stats->reconnects);
    json_builder_end_object(json);
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
    fl_json_add_string(json, "mountpoint", status->mountpoint);
    fl_json_add_string(json, "since", since);
    fl_json_add_int(json, "cache_bytes", (gint64)fl_cache_used(status->cache));
    fl_json_add_int(json, "cache_limit", (gint64)status->options->cache);
    fl_json_add_int(json, "file_descriptors", count_entries("/proc/self/fd"));
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
    fl_tree_add_text(status->tree, ".fleecefs/status.json", make_status, status);
}
