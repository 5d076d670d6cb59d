/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/point.h"

#include <string.h>

#define POINT_PREFIX  "fleecefs."
#define MARKER_PREFIX "fleecefs-pending."

char *fl_point_id(gint64 seconds, uint64_t disk_size)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_utc(seconds);
    g_autofree char *text = g_date_time_format(time, "%Y%m%dT%H%M%SZ");

    if (disk_size == 0)
        return g_steal_pointer(&text);
    return g_strdup_printf("%s-%" G_GINT64_MODIFIER "x", text, disk_size);
}

char *fl_point_bitmap(const char *series, const char *id)
{
    return g_strconcat(POINT_PREFIX, series, ".", id, NULL);
}

char *fl_point_marker(const char *series, const char *id)
{
    return g_strconcat(MARKER_PREFIX, series, ".", id, NULL);
}

FlPoint *fl_point_parse(const char *name)
{
    bool pending = g_str_has_prefix(name, MARKER_PREFIX);
    const char *series, *dot, *dash;
    g_autoptr(GDateTime) time = NULL;
    g_autofree char *text = NULL;
    FlPoint *point;

    if (!pending && !g_str_has_prefix(name, POINT_PREFIX))
        return NULL;
    series = name + strlen(pending ? MARKER_PREFIX : POINT_PREFIX);
    dot = strrchr(series, '.');
    if (dot == NULL || dot == series || dot[1] == '\0')
        return NULL;

    point = g_new0(FlPoint, 1);
    point->series = g_strndup(series, (gsize)(dot - series));
    point->id = g_strdup(dot + 1);
    point->pending = pending;
    dash = strrchr(point->id, '-');
    text = g_strndup(point->id, dash != NULL ? (gsize)(dash - point->id) : strlen(point->id));
    time = g_date_time_new_from_iso8601(text, NULL);
    point->seconds = time != NULL ? g_date_time_to_unix(time) : 0;
    if (dash == NULL || !g_ascii_string_to_unsigned(dash + 1, 16, 0, INT64_MAX, &point->size, NULL))
        point->size = 0;
    return point;
}

void fl_point_free(FlPoint *point)
{
    if (point == NULL)
        return;
    g_free(point->series);
    g_free(point->id);
    g_free(point);
}

bool fl_series_check(const char *series, GError **error)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t length = strlen(series);

    if (length == 0 || length > 100 || strspn(series, allowed) != length ||
        !g_ascii_isalnum(series[0]))
        return fl_fail_usage(error,
                             "series '%s': a name has 1 to 100 letters, digits, '.', '_' and '-', "
                             "the first a letter or digit",
                             series);
    return true;
}

bool fl_point_is_ours(const char *name, const char *series)
{
    g_autoptr(FlPoint) point = fl_point_parse(name);

    return point != NULL && (series == NULL || g_str_equal(point->series, series));
}

bool fl_point_is_note(const char *name)
{
    return !g_str_has_prefix(name, POINT_PREFIX) && fl_point_is_ours(name, NULL);
}
