/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/point.h"

#include <string.h>
#include <sys/random.h>

/* Hex digits of the random part of an id, and of a binding. */
#define RANDOM_DIGITS  16
#define BINDING_DIGITS 16

static const char *const prefixes[] = {
    [FL_POINT_BASE] = "fleecefs.",
    [FL_POINT_PENDING] = "fleecefs-pending.",
    [FL_POINT_DISK] = "fleecefs-disk.",
    [FL_POINT_CHECK] = "fleecefs-check.",
};

static uint64_t random_bits(void)
{
    uint64_t bits;

    /* Once the kernel's pool is initialized, getrandom() returns all of up to 256 bytes. */
    if (getrandom(&bits, sizeof bits, 0) != sizeof bits)
        g_error("no random numbers are available");
    return bits;
}

char *fl_point_id(gint64 seconds)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_utc(seconds);
    g_autofree char *text = g_date_time_format(time, "%Y%m%dT%H%M%SZ");

    return g_strdup_printf("%s-%016" G_GINT64_MODIFIER "x", text, random_bits());
}

char *fl_point_disk_id(const char *id, uint64_t size, const char *binding)
{
    return g_strdup_printf("%s-%" G_GINT64_MODIFIER "x%s%s", id, size, binding != NULL ? "-" : "",
                           binding != NULL ? binding : "");
}

char *fl_point_binding(const char *node, const char *device, const char *file)
{
    const char *const parts[] = {node, device, file};
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);

    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
        const char *part = parts[i] != NULL ? parts[i] : "";
        g_checksum_update(sum, (const guchar *)part, (gssize)strlen(part) + 1);
    }
    return g_strndup(g_checksum_get_string(sum), BINDING_DIGITS);
}

char *fl_point_backing_binding(const char *backing)
{
    return backing != NULL ? fl_point_binding("backing", NULL, backing) : NULL;
}

static char *make_name(FlPointKind kind, const char *series, const char *id)
{
    return g_strconcat(prefixes[kind], series, ".", id, NULL);
}

char *fl_point_bitmap(const char *series, const char *id)
{
    return make_name(FL_POINT_BASE, series, id);
}

char *fl_point_marker(const char *series, const char *id)
{
    return make_name(FL_POINT_PENDING, series, id);
}

char *fl_point_disk(const char *series, const char *disk_id)
{
    return make_name(FL_POINT_DISK, series, disk_id);
}

char *fl_point_check(const char *series, const char *id)
{
    return make_name(FL_POINT_CHECK, series, id);
}

static bool parse_hex(const char *text, uint64_t *value)
{
    return text != NULL && g_ascii_string_to_unsigned(text, 16, 0, INT64_MAX, value, NULL);
}

static bool is_random(const char *part)
{
    return part != NULL && strlen(part) == RANDOM_DIGITS &&
           strspn(part, "0123456789abcdef") == RANDOM_DIGITS;
}

/* Parses the id: TIME, RANDOM or SIZE; and for a disk, SIZE and BINDING. */
static void parse_id(FlPoint *point)
{
    g_auto(GStrv) parts = g_strsplit(point->id, "-", 4);
    guint n = g_strv_length(parts);
    g_autoptr(GDateTime) time = g_date_time_new_from_iso8601(parts[0], NULL);

    point->seconds = time != NULL ? g_date_time_to_unix(time) : 0;
    point->unique = n > 1 && is_random(parts[1]);
    if (point->kind != FL_POINT_DISK) {
        if (n != 2 || point->unique || !parse_hex(parts[1], &point->size))
            point->size = 0;
    } else if (n >= 3 && parse_hex(parts[2], &point->size)) {
        point->first = g_strjoin("-", parts[0], parts[1], NULL);
        point->binding = g_strdup(parts[3]);
    }
}

FlPoint *fl_point_parse(const char *name)
{
    const char *series = NULL, *dot;
    FlPointKind kind = FL_POINT_BASE;
    FlPoint *point;

    for (size_t i = 0; i < G_N_ELEMENTS(prefixes) && series == NULL; i++) {
        if (!g_str_has_prefix(name, prefixes[i]))
            continue;
        kind = (FlPointKind)i;
        series = name + strlen(prefixes[i]);
    }
    dot = series != NULL ? strrchr(series, '.') : NULL;
    if (dot == NULL || dot == series || dot[1] == '\0')
        return NULL;

    point = g_new0(FlPoint, 1);
    point->kind = kind;
    point->series = g_strndup(series, (gsize)(dot - series));
    point->id = g_strdup(dot + 1);
    parse_id(point);
    return point;
}

void fl_point_free(FlPoint *point)
{
    if (point == NULL)
        return;
    g_free(point->series);
    g_free(point->id);
    g_free(point->first);
    g_free(point->binding);
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
                             "series '%s': a name consists of 1 to 100 letters, digits, '.', '_' "
                             "and '-', and begins with a letter or digit",
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
    return !g_str_has_prefix(name, prefixes[FL_POINT_BASE]) && fl_point_is_ours(name, NULL);
}
