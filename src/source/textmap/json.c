/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "formats.h"

#include "qemu/json.h"

/* Objects are parsed one at a time, so memory does not grow with their number. */
#define OBJECT_MAX (64u << 10)

typedef enum {
    KIND_NONE,
    KIND_NBDINFO,
    KIND_OVIRT,
    KIND_RBD,
} Kind;

/* Parser state of the array. */
typedef struct {
    FlRanges *ranges;
    const char *at, *end;
    Kind kind; /* of all objects */
} Array;

static void skip_space(Array *array)
{
    for (; array->at < array->end && g_ascii_isspace(*array->at); array->at++)
        array->ranges->line += *array->at == '\n';
}

static bool take(Array *array, char c)
{
    skip_space(array);
    if (array->at == array->end || *array->at != c)
        return false;
    array->at++;
    return true;
}

static bool is_string(JsonObject *object, const char *name, const char *value)
{
    return g_strcmp0(fl_json_string(object, name), value) == 0;
}

static Kind kind_of(JsonObject *object)
{
    if (fl_json_value(object, "start", G_TYPE_INT64) != NULL &&
        fl_json_value(object, "dirty", G_TYPE_BOOLEAN) != NULL)
        return KIND_OVIRT;
    if (fl_json_value(object, "offset", G_TYPE_INT64) == NULL)
        return KIND_NONE;
    if (fl_json_value(object, "type", G_TYPE_INT64) != NULL)
        return KIND_NBDINFO;
    return is_string(object, "exists", "true") || is_string(object, "exists", "false") ? KIND_RBD
                                                                                       : KIND_NONE;
}

/* Whether OBJECT, from nbdinfo, describes a dirty bitmap. */
static bool is_dirty_type(JsonObject *object)
{
    gint64 type = fl_json_int(object, "type");
    const char *said = fl_json_string(object, "description");

    return (type == 0 || type == 1) &&
           (said == NULL || g_str_equal(said, type == 1 ? "dirty" : "clean"));
}

static bool take_object(Array *array, JsonObject *object)
{
    FlRanges *ranges = array->ranges;
    Kind kind = kind_of(object);
    gint64 start = fl_json_int(object, kind == KIND_OVIRT ? "start" : "offset");
    gint64 length = fl_json_int(object, "length");

    if (kind == KIND_NONE)
        return fl_ranges_fail(ranges, "not an extent in the format of nbdinfo --map --json, rbd "
                                      "diff --format json or the .json files of fleecefs");
    if (array->kind != KIND_NONE && kind != array->kind)
        return fl_ranges_fail(ranges, "an extent of another kind than those before it");
    array->kind = kind;
    if (start < 0 || length < 0)
        return fl_ranges_fail(ranges, "a negative number");
    if (kind == KIND_RBD)
        return fl_ranges_add(ranges, (uint64_t)start, (uint64_t)length, true);
    if (kind == KIND_OVIRT)
        return fl_ranges_add_next(ranges, (uint64_t)start, (uint64_t)length,
                                  fl_json_bool(object, "dirty"));
    if (!is_dirty_type(object))
        return fl_ranges_fail(ranges, "not a type of a dirty bitmap: print its map with nbdinfo "
                                      "--map=qemu:dirty-bitmap:NAME --json");
    return fl_ranges_add_next(ranges, (uint64_t)start, (uint64_t)length,
                              fl_json_int(object, "type") == 1);
}

/* Returns the end of the object at AT; NULL if it is unterminated or too long. */
static const char *object_end(const char *at, const char *end)
{
    FlJsonScan scan = {0};

    for (const char *p = at; p < end && p - at < OBJECT_MAX; p++) {
        fl_json_scan(&scan, *p);
        if (scan.depth == 0)
            return p + 1;
    }
    return NULL;
}

static bool next_object(Array *array)
{
    g_autoptr(JsonObject) object = NULL;
    g_autoptr(GError) why = NULL;
    const char *end;

    skip_space(array);
    if (array->at == array->end || *array->at != '{')
        return fl_ranges_fail(array->ranges, "an object { } is expected here");
    end = object_end(array->at, array->end);
    if (end == NULL)
        return fl_ranges_fail(array->ranges, "the object that begins here has no end");
    object = fl_json_parse(array->at, (gsize)(end - array->at), &why);
    if (object == NULL)
        return fl_ranges_fail(array->ranges, "%s", why->message);
    if (!take_object(array, object))
        return false;
    for (; array->at < end; array->at++)
        array->ranges->line += *array->at == '\n';
    return true;
}

bool fl_textmap_json(FlRanges *ranges, const char *text, size_t length)
{
    Array array = {.ranges = ranges, .at = text, .end = text + length};

    ranges->line = 1;
    if (!take(&array, '['))
        return fl_ranges_fail(ranges, "an array [ ] of extents is expected");
    if (!take(&array, ']')) {
        do {
            if (!next_object(&array))
                return false;
        } while (take(&array, ','));
        if (!take(&array, ']'))
            return fl_ranges_fail(ranges, "the array of extents has no end");
    }
    skip_space(&array);
    if (array.at < array.end)
        return fl_ranges_fail(ranges, "text after the array of extents");
    /* An empty array comes from rbd: nothing has changed. */
    return fl_ranges_end(ranges, array.kind == KIND_NBDINFO || array.kind == KIND_OVIRT);
}
