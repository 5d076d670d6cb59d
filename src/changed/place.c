/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "place.h"

#include "text-map.h"

#include <string.h>
#include <time.h>

/* Per file: more would take too much memory. */
#define STRETCHES_MAX (UINT64_C(1) << 22)

void fl_place_free(FlPlace *place)
{
    if (place == NULL)
        return;
    g_free(place->path);
    g_free(place->folder);
    g_array_unref(place->stretches);
    g_clear_pointer(&place->info, json_object_unref);
    g_free(place);
}

static JsonObject *read_info(const char *folder, GError **error)
{
    g_autofree char *path = g_build_filename(folder, "info.json", NULL), *text = NULL;
    gsize length;
    JsonObject *info;

    if (!g_file_get_contents(path, &text, &length, error))
        return NULL;
    info = fl_json_parse(text, length, error);
    if (info == NULL)
        g_prefix_error(error, "%s: ", path);
    return info;
}

static void add_stretch(FlPlace *place, uint64_t disk, uint64_t length)
{
    FlStretch stretch = {.length = length, .disk = disk};

    if (place->stretches->len > 0) {
        const FlStretch *last =
            &g_array_index(place->stretches, FlStretch, place->stretches->len - 1);

        stretch.start = last->start + last->length;
    }
    if (length > 0 && length <= INT64_MAX - stretch.start && disk <= INT64_MAX - length)
        g_array_append_val(place->stretches, stretch);
}

/* Linear or striped: see "parts" in fleecefs-formats(5). */
static bool add_stripes(FlPlace *place, JsonObject *part)
{
    JsonArray *areas = fl_json_array(part, "areas");
    uint64_t length = (uint64_t)fl_json_int(part, "length");
    uint64_t stripe = (uint64_t)fl_json_int(part, "stripe"), n = fl_json_length(areas);

    if (stripe == 0 || n == 0 || length / stripe > STRETCHES_MAX)
        return false;
    for (uint64_t at = 0; at < length; at += stripe) {
        uint64_t number = at / stripe;
        JsonNode *area = json_array_get_element(areas, (guint)(number % n));

        if (json_node_get_value_type(area) != G_TYPE_INT64)
            return false;
        add_stretch(place, (uint64_t)json_node_get_int(area) + number / n * stripe,
                    MIN(stripe, length - at));
    }
    return place->stretches->len <= STRETCHES_MAX;
}

/* lv/GROUP-NAME.raw, with each '-' in GROUP and NAME doubled, as in device mapper names. */
static bool is_volume(JsonObject *volume, const char *name)
{
    const char *group = fl_json_string(volume, "group"), *own = fl_json_string(volume, "name");
    g_auto(GStrv) in_group = NULL, in_own = NULL;
    g_autofree char *safe_group = NULL, *safe_own = NULL, *file = NULL;

    if (group == NULL || own == NULL)
        return false;
    in_group = g_strsplit(group, "-", -1);
    in_own = g_strsplit(own, "-", -1);
    safe_group = g_strjoinv("--", in_group);
    safe_own = g_strjoinv("--", in_own);
    file = g_strconcat(safe_group, "-", safe_own, ".raw", NULL);
    return g_str_equal(file, name);
}

static bool add_volume(FlPlace *place, const char *name)
{
    JsonArray *volumes = fl_json_array(place->info, "logical_volumes");

    for (guint i = 0; i < fl_json_length(volumes); i++) {
        JsonObject *volume = fl_json_element(volumes, i);
        JsonArray *parts = fl_json_array(volume, "parts");
        bool ok = true;

        if (!is_volume(volume, name))
            continue;
        for (guint j = 0; j < fl_json_length(parts); j++)
            ok = ok && add_stripes(place, fl_json_element(parts, j));
        return ok;
    }
    return false;
}

/* partN.raw */
static bool add_partition(FlPlace *place, const char *name)
{
    JsonArray *partitions = fl_json_array(place->info, "partitions");

    for (guint i = 0; i < fl_json_length(partitions); i++) {
        JsonObject *partition = fl_json_element(partitions, i);
        g_autofree char *file =
            g_strdup_printf("part%" G_GINT64_FORMAT ".raw", fl_json_int(partition, "number"));

        if (!g_str_equal(file, name))
            continue;
        add_stretch(place, (uint64_t)fl_json_int(partition, "start"),
                    (uint64_t)fl_json_int(partition, "length"));
        return true;
    }
    return false;
}

static int64_t parse_time(const char *text)
{
    g_autoptr(GDateTime) time = text != NULL ? g_date_time_new_from_iso8601(text, NULL) : NULL;

    return time != NULL ? g_date_time_to_unix(time) : -1;
}

FlPlace *fl_place_find(const char *path, uint64_t size, bool alone, GError **error)
{
    g_autoptr(FlPlace) place = g_new0(FlPlace, 1);
    g_autoptr(GError) missing = NULL;
    g_autofree char *name = g_path_get_basename(path);
    bool is_in_lv;

    place->path = g_strdup(path);
    place->folder = g_path_get_dirname(path);
    is_in_lv = g_str_has_suffix(place->folder, "/lv");
    if (is_in_lv)
        *strrchr(place->folder, '/') = 0;
    place->stretches = g_array_new(FALSE, FALSE, sizeof(FlStretch));
    place->info = read_info(place->folder, &missing);
    if (place->info == NULL && !alone) {
        fl_fail(error,
                "%s: %s; give a file of a fleecefs mount, such as EXPORT/part1.raw, or the map of "
                "the disk with --map",
                path,
                g_error_matches(missing, G_FILE_ERROR, G_FILE_ERROR_NOENT)
                    ? "no info.json of a disk is beside it"
                    : missing->message);
        return NULL;
    }
    place->snapshot = parse_time(fl_json_string(place->info, "point_in_time"));
    if (place->snapshot < 0)
        place->snapshot = (int64_t)time(NULL);
    if (place->info == NULL || g_str_equal(name, "disk.raw")) {
        add_stretch(place, 0, size);
    } else if (is_in_lv ? !add_volume(place, name) : !add_partition(place, name)) {
        fl_fail(error, "%s: its info.json has no such partition or logical volume", path);
        return NULL;
    }
    return g_steal_pointer(&place);
}

/* Finds the object in "contexts" of the bitmap called NAME. If NAME is NULL: of the increment's
 * bitmap, or else of the only bitmap. */
static JsonObject *find_bitmap(const FlPlace *place, const char *name)
{
    JsonArray *contexts = fl_json_array(place->info, "contexts");
    JsonObject *only = NULL;
    guint n = 0;

    for (guint i = 0; i < fl_json_length(contexts); i++) {
        JsonObject *context = fl_json_element(contexts, i);
        const char *bitmap = fl_json_string(context, "bitmap");

        if (bitmap == NULL)
            continue;
        if (name != NULL ? g_str_equal(bitmap, name) : fl_json_string(context, "base") != NULL)
            return context;
        only = context;
        n++;
    }
    return name == NULL && n == 1 ? only : NULL;
}

static char *list_bitmaps(const FlPlace *place)
{
    JsonArray *contexts = fl_json_array(place->info, "contexts");
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (guint i = 0; i < fl_json_length(contexts); i++) {
        const char *bitmap = fl_json_string(fl_json_element(contexts, i), "bitmap");

        if (bitmap != NULL)
            g_ptr_array_add(names, (void *)bitmap);
    }
    if (names->len == 0)
        return g_strdup("has no dirty bitmap, so changes are unknown (a first backup is full)");
    g_ptr_array_add(names, NULL);
    {
        g_autofree char *joined = g_strjoinv(", ", (char **)names->pdata);

        return g_strdup_printf("choose with --since: %s", joined);
    }
}

static FlMap *read_bitmap(const FlPlace *place, const char *name, GError **error)
{
    JsonObject *context = find_bitmap(place, name);
    g_autofree char *file = NULL, *path = NULL, *others = NULL;

    if (context == NULL) {
        others = list_bitmaps(place);
        if (name == NULL)
            fl_fail(error, "%s: %s", place->folder, others);
        else
            fl_fail(error, "%s: no bitmap '%s'; %s", place->folder, name, others);
        return NULL;
    }
    file = g_strdup_printf("%s.map", fl_json_string(context, "bitmap"));
    path = g_build_filename(place->folder, "dirty", file, NULL);
    return fl_text_map_read(path, error);
}

FlMap *fl_place_read_bitmaps(const FlPlace *place, const char *since, const char *until,
                             GError **error)
{
    g_autoptr(FlMap) map = read_bitmap(place, since, error), later = NULL;

    if (map == NULL || until == NULL)
        return g_steal_pointer(&map);
    later = read_bitmap(place, until, error);
    return later != NULL ? fl_text_map_mark(map, later) : NULL;
}

int64_t fl_place_since(const FlPlace *place, const char *since)
{
    const char *base = fl_json_string(find_bitmap(place, since), "base");
    g_autofree char *time = base != NULL ? g_strndup(base, strlen("20261121T033659Z")) : NULL;

    return parse_time(time);
}
