/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/mounts.h"

#include "app/client.h"
#include "app/sources.h"
#include "qemu/json.h"
#include "snapshot/provider.h"

#include <errno.h>
#include <string.h>

#define MOUNTS "/proc/self/mountinfo"

static void line_free(gpointer data)
{
    FlMountLine *line = data;

    g_free(line->mountpoint);
    g_free(line->source);
    g_free(line);
}

/* Parses a line of proc_pid_mountinfo(5): ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [TAGS...] - TYPE
 * SOURCE SUPER, with octal escapes for blanks and backslashes. NULL if it is not a fleecefs
 * mount. */
static FlMountLine *parse_line(const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    guint n = g_strv_length(words), dash = 6;
    FlMountLine *line;

    while (dash < n && !g_str_equal(words[dash], "-"))
        dash++;
    if (dash + 2 >= n || !g_str_equal(words[dash + 1], "fuse.fleecefs"))
        return NULL;
    line = g_new0(FlMountLine, 1);
    line->mountpoint = g_strcompress(words[4]);
    line->source = g_strcompress(words[dash + 2]);
    return line;
}

GPtrArray *fl_mounts_read(GError **error)
{
    g_autoptr(GPtrArray) mounts = g_ptr_array_new_with_free_func(line_free);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(MOUNTS, &text, NULL, error))
        return NULL;
    lines = g_strsplit(text, "\n", -1);
    for (guint i = 0; lines[i] != NULL; i++) {
        FlMountLine *line = parse_line(lines[i]);

        if (line != NULL)
            g_ptr_array_add(mounts, line);
    }
    return g_steal_pointer(&mounts);
}

/* Whether LABEL is one of the sources in the status TEXT. */
static bool has_source(const char *text, const char *label)
{
    g_autoptr(JsonObject) status = fl_json_parse(text, strlen(text), NULL);
    JsonArray *sources = status != NULL ? fl_json_array(status, "sources") : NULL;

    for (guint i = 0; i < fl_json_length(sources); i++) {
        JsonNode *node = json_array_get_element(sources, i);

        if (json_node_get_value_type(node) == G_TYPE_STRING &&
            g_str_equal(json_node_get_string(node), label))
            return true;
    }
    return false;
}

/* Whether a daemon serves the source LABEL on LINE. A domain of the same name may be another
 * libvirt's if the mount is another user's; a path is the same for all. */
static bool serves(const FlMountLine *line, const char *label, bool is_path)
{
    bool several = g_str_equal(line->source, FL_SOURCES_SEVERAL);
    g_autofree char *status = NULL;
    int failed;

    if (!several && !g_str_equal(line->source, label))
        return false;
    failed = fl_client_ask(line->mountpoint, &status);
    if (several)
        return failed == 0 && has_source(status, label);
    return failed == 0 || failed == ETIMEDOUT || (is_path && (failed == EACCES || failed == EPERM));
}

bool fl_mounts_check_free(const char *text, GError **error)
{
    const FlProvider *provider = fl_provider_find(text);
    g_autoptr(GPtrArray) mounts = fl_mounts_read(NULL);
    g_autofree char *label = fl_source_text_label(text);

    for (guint i = 0; mounts != NULL && i < mounts->len; i++) {
        const FlMountLine *line = mounts->pdata[i];

        if (serves(line, label, provider == NULL || provider->is_path))
            return fl_fail(error,
                           "%s is mounted at %s: end that mount first (%sfleecefs --abort %s)",
                           text, line->mountpoint, provider != NULL ? "fleecefs --commit or " : "",
                           line->mountpoint);
    }
    return true;
}
