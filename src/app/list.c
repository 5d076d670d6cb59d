/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --list: all mounts of fleecefs that this process can see. */
#include "app/client.h"
#include "app/mounts.h"
#include "qemu/json.h"
#include "util/json.h"
#include "util/printable.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Strings are NULL if unknown. */
typedef struct {
    char *mountpoint, *source, *series, *since;
    char *state;
    bool fine;
} Mount;

static void mount_free(gpointer data)
{
    Mount *mount = data;

    g_free(mount->mountpoint);
    g_free(mount->source);
    g_free(mount->series);
    g_free(mount->since);
    g_free(mount->state);
    g_free(mount);
}

static Mount *mount_new(const FlMountLine *line)
{
    Mount *mount = g_new0(Mount, 1);

    mount->mountpoint = g_strdup(line->mountpoint);
    mount->source = g_strdup(line->source);
    return mount;
}

static char *state_of(JsonObject *status, bool *fine)
{
    guint disks = fl_json_length(fl_json_array(status, "exports"));
    guint failed = fl_client_failed_disks(status), erring = fl_client_erring_disks(status);
    const char *word = failed > 0 ? "failed" : "errors";

    *fine = failed + erring == 0;
    if (*fine)
        return g_strdup("ok");
    return disks == 1
               ? g_strdup(word)
               : g_strdup_printf("%s: %u of %u disks", word, failed > 0 ? failed : erring, disks);
}

/* Takes the status TEXT, NULL if asking for it FAILED. */
static void take_status(Mount *mount, const char *text, int failed)
{
    g_autoptr(JsonObject) status = text != NULL ? fl_json_parse(text, strlen(text), NULL) : NULL;

    if (status != NULL) {
        mount->series = g_strdup(fl_json_string(status, "series"));
        mount->since = g_strdup(fl_json_string(status, "since"));
        mount->state = state_of(status, &mount->fine);
    } else if (failed == EACCES || failed == EPERM) {
        /* Not accessible to this user; no problem is known. */
        mount->state = g_strdup("of another user");
        mount->fine = true;
    } else {
        mount->state = g_strdup(failed == ENOTCONN    ? "dead: use fusermount3 -u"
                                : failed == ETIMEDOUT ? "does not answer"
                                                      : "cannot be read");
    }
}

static void ask_all(const GPtrArray *mounts)
{
    g_autofree const char **mountpoints = g_new(const char *, mounts->len);
    g_autofree char **texts = g_new0(char *, mounts->len);
    g_autofree int *failed = g_new0(int, mounts->len);

    for (guint i = 0; i < mounts->len; i++)
        mountpoints[i] = ((const Mount *)mounts->pdata[i])->mountpoint;
    fl_client_ask_all(mountpoints, mounts->len, texts, failed);
    for (guint i = 0; i < mounts->len; i++) {
        take_status(mounts->pdata[i], texts[i], failed[i]);
        g_free(texts[i]);
    }
}

/* "3d", "2h 5min", "4min", "10s". */
static char *age_text(const char *since)
{
    g_autoptr(GTimeZone) utc = g_time_zone_new_utc();
    g_autoptr(GDateTime) then = since != NULL ? g_date_time_new_from_iso8601(since, utc) : NULL;
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    gint64 seconds = then != NULL ? MAX(g_date_time_difference(now, then), 0) / G_USEC_PER_SEC : 0;
    int days = (int)(seconds / 86400), hours = (int)(seconds / 3600 % 24);
    int minutes = (int)(seconds / 60 % 60);

    if (then == NULL)
        return g_strdup("-");
    if (days > 0)
        return g_strdup_printf("%dd %dh", days, hours);
    if (hours > 0)
        return g_strdup_printf("%dh %dmin", hours, minutes);
    return minutes > 0 ? g_strdup_printf("%dmin", minutes) : g_strdup_printf("%ds", (int)seconds);
}

static void add_json(JsonBuilder *json, const Mount *mount)
{
    json_builder_begin_object(json);
    fl_json_add_string(json, "mountpoint", mount->mountpoint);
    fl_json_add_string(json, "source", mount->source);
    fl_json_add_string(json, "series", mount->series);
    fl_json_add_string(json, "since", mount->since);
    fl_json_add_string(json, "state", mount->state);
    json_builder_end_object(json);
}

static void print_json(const GPtrArray *mounts)
{
    g_autoptr(JsonBuilder) json = json_builder_new();
    g_autoptr(GBytes) text = NULL;

    json_builder_begin_array(json);
    for (guint i = 0; i < mounts->len; i++)
        add_json(json, mounts->pdata[i]);
    json_builder_end_array(json);
    text = fl_json_text(json);
    fwrite(g_bytes_get_data(text, NULL), 1, g_bytes_get_size(text), stdout);
}

/* Columns are separated by two blanks; fields contain at most single blanks. */
static void print_table(const GPtrArray *mounts)
{
    enum { COLUMNS = 5 };
    g_autoptr(GPtrArray) cells = g_ptr_array_new_with_free_func(g_free);
    int widths[COLUMNS] = {0};
    static const char *const head[COLUMNS] = {"MOUNTPOINT", "SOURCE", "SERIES", "AGE", "STATE"};

    for (guint i = 0; i < COLUMNS; i++)
        g_ptr_array_add(cells, g_strdup(head[i]));
    for (guint i = 0; i < mounts->len; i++) {
        const Mount *mount = mounts->pdata[i];

        g_ptr_array_add(cells, fl_printable(mount->mountpoint));
        g_ptr_array_add(cells, fl_printable(mount->source));
        g_ptr_array_add(cells, fl_printable(mount->series != NULL ? mount->series : "-"));
        g_ptr_array_add(cells, age_text(mount->since));
        g_ptr_array_add(cells, g_strdup(mount->state));
    }
    for (guint i = 0; i < cells->len; i++)
        widths[i % COLUMNS] = MAX(widths[i % COLUMNS], (int)g_utf8_strlen(cells->pdata[i], -1));
    for (guint i = 0; i < cells->len; i++) {
        const char *cell = cells->pdata[i];
        int pad = widths[i % COLUMNS] - (int)g_utf8_strlen(cell, -1);

        if (i % COLUMNS < COLUMNS - 1)
            printf("%s%*s", cell, pad + 2, "");
        else
            printf("%s\n", cell);
    }
}

int fl_client_list(bool json)
{
    g_autoptr(GPtrArray) mounts = g_ptr_array_new_with_free_func(mount_free);
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) lines = fl_mounts_read(&error);
    int status = 0;

    if (lines == NULL) {
        g_critical("%s", error->message);
        return FL_ERROR_FAILED;
    }
    for (guint i = 0; i < lines->len; i++)
        g_ptr_array_add(mounts, mount_new(lines->pdata[i]));
    ask_all(mounts);
    for (guint i = 0; i < mounts->len; i++) {
        if (!((const Mount *)mounts->pdata[i])->fine)
            status = FL_ERROR_FAILED;
    }
    if (json)
        print_json(mounts);
    else if (mounts->len > 0)
        print_table(mounts);
    return status;
}
