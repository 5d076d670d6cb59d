/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/metrics.h"

#include "config.h"
#include "figures.h"

#include <inttypes.h>
#include <stddef.h>

typedef struct {
    const char *name; /* without "fleecefs_disk_" */
    bool counter;
    const char *help;
    size_t offset; /* in FlFigures */
} Metric;

#define FIGURE(name) offsetof(FlFigures, name)

static const Metric metrics[] = {
    {"up", false, "Whether the disk can be read; 0 if it has failed.", FIGURE(up)},
    {"size_bytes", false, "Size of the disk.", FIGURE(size)},
    {"data_bytes", false, "Bytes of data on the disk; needs its maps.", FIGURE(data_bytes)},
    {"data_covered_bytes", false, "Of these, those that were read without an error.",
     FIGURE(data_covered)},
    {"dirty_bytes", false, "Bytes that changed since the last backup.", FIGURE(dirty_bytes)},
    {"dirty_covered_bytes", false, "Of these, those that were read without an error.",
     FIGURE(dirty_covered)},
    {"wanted_bytes", false, "Bytes of a snapshot that a backup must read.", FIGURE(wanted_bytes)},
    {"covered_bytes", false, "Of these, those that were read without an error.",
     FIGURE(covered_bytes)},
    {"pieces_changed", false, "Pieces of a snapshot that changed since the last backup.",
     FIGURE(pieces_changed)},
    {"pieces_read", false, "Of these, those that were read without an error.", FIGURE(pieces_read)},
    {"scratch_used_bytes", false, "Size of the scratch file of a snapshot.", FIGURE(scratch_used)},
    {"scratch_limit_bytes", false, "Size that the scratch file may grow to.",
     FIGURE(scratch_limit)},
    {"open_files", false, "Files of the disk that are open.", FIGURE(open_files)},
    {"connections", false, "Open NBD connections.", FIGURE(connections)},
    {"requests_in_flight", false, "Requests that the server is processing.", FIGURE(in_flight)},
    {"requests_waiting", false, "Requests that wait for a connection.", FIGURE(waiting)},
    {"read_bytes", true, "Bytes read from the server.", FIGURE(bytes_read)},
    {"requests", true, "Requests to the server.", FIGURE(requests)},
    {"errors", true, "Requests that the server refused.", FIGURE(errors)},
    {"reconnects", true, "Connections opened to replace a broken one.", FIGURE(reconnects)},
};

/* Appends a quoted label value. */
static void add_quoted(GString *text, const char *value)
{
    g_autofree char *valid = g_utf8_make_valid(value, -1);

    g_string_append_c(text, '"');
    for (const char *p = valid; *p != '\0'; p++) {
        if (*p == '\\' || *p == '"')
            g_string_append_c(text, '\\');
        if (*p == '\n')
            g_string_append(text, "\\n");
        else
            g_string_append_c(text, *p);
    }
    g_string_append_c(text, '"');
}

/* Appends the metadata of a family; its name ends in its unit. */
static void add_head(GString *text, const char *name, const char *type, const char *help)
{
    static const char *const units[] = {"bytes", "seconds"};

    g_string_append_printf(text, "# TYPE fleecefs_%s %s\n", name, type);
    for (guint i = 0; i < G_N_ELEMENTS(units); i++) {
        if (g_str_has_suffix(name, units[i]))
            g_string_append_printf(text, "# UNIT fleecefs_%s %s\n", name, units[i]);
    }
    g_string_append_printf(text, "# HELP fleecefs_%s %s\n", name, help);
}

static void add_gauge(GString *text, const char *name, uint64_t value, const char *help)
{
    add_head(text, name, "gauge", help);
    g_string_append_printf(text, "fleecefs_%s %" PRIu64 "\n", name, value);
}

/* Appends a family: one metric, for all disks that have it. */
static void add_family(GString *text, const Metric *metric, const GPtrArray *exports,
                       const FlFigures *figures)
{
    g_autofree char *name = g_strconcat("disk_", metric->name, NULL);

    add_head(text, name, metric->counter ? "counter" : "gauge", metric->help);
    for (guint i = 0; i < exports->len; i++) {
        const FlOrigin *origin = fl_export_origin(exports->pdata[i]);
        uint64_t value = G_STRUCT_MEMBER(uint64_t, &figures[i], metric->offset);

        if (value == FL_UNKNOWN)
            continue;
        g_string_append_printf(text, "fleecefs_%s%s{source=", name,
                               metric->counter ? "_total" : "");
        add_quoted(text, origin->source);
        g_string_append(text, ",disk=");
        add_quoted(text, origin->folder);
        g_string_append_printf(text, "} %" PRIu64 "\n", value);
    }
}

static GBytes *make_metrics(void *opaque)
{
    const FlStatus *status = opaque;
    const GPtrArray *exports = fl_tree_exports(status->tree);
    g_autofree FlFigures *figures = g_new(FlFigures, exports->len);
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < exports->len; i++)
        fl_figures_collect(&figures[i], exports->pdata[i]);
    /* With type info, the text parsers of older Prometheus and of node exporter's text file
     * collector would not recognize this metric; they know all other types used here. */
    add_head(text, "build_info", "gauge", "Version of fleecefs that serves the mount.");
    g_string_append(text, "fleecefs_build_info{version=\"" FL_VERSION "\",mountpoint=");
    add_quoted(text, status->mountpoint);
    g_string_append(text, "} 1\n");
    add_gauge(text, "start_time_seconds", (uint64_t)status->since.tv_sec, "Time of the mount.");
    add_gauge(text, "cache_bytes", fl_cache_used(status->cache),
              "Memory in use for read-ahead data.");
    add_gauge(text, "cache_limit_bytes", status->options->cache,
              "Limit of memory for read-ahead data.");
    for (guint i = 0; i < G_N_ELEMENTS(metrics); i++)
        add_family(text, &metrics[i], exports, figures);
    g_string_append(text, "# EOF\n");
    return g_string_free_to_bytes(text);
}

void fl_metrics_add(FlStatus *status)
{
    fl_tree_add_text(status->tree, ".fleecefs/metrics", make_metrics, status);
}
