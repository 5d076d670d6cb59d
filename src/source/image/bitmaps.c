/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bitmaps of an image and of its backing images.
 *
 * An external snapshot puts an empty overlay on top of the disk. For each bitmap of the image
 * below, libvirt starts one of the same name in the overlay, and leaves the old one in place: each
 * holds part of the writes. So bitmaps of one name in consecutive images, from the top down, form
 * one bitmap.
 */
#include "source/image/image.h"

#include "qemu/json.h"

#include <string.h>

static int compare_bitmaps(gconstpointer a, gconstpointer b)
{
    const FlBitmap *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static void add_bitmaps(GPtrArray *bitmaps, JsonArray *found)
{
    for (guint i = 0; i < fl_json_length(found); i++) {
        JsonObject *object = fl_json_element(found, i);
        const char *name = fl_json_string(object, "name");
        FlBitmap *bitmap;

        if (name == NULL) /* internal to QEMU */
            continue;
        bitmap = fl_bitmap_new(name, NULL, (uint64_t)fl_json_int(object, "granularity"));
        bitmap->count = (uint64_t)fl_json_int(object, "count");
        bitmap->inconsistent = fl_json_bool(object, "inconsistent");
        g_ptr_array_add(bitmaps, bitmap);
    }
    g_ptr_array_sort(bitmaps, compare_bitmaps);
}

static JsonObject *find_bitmap(JsonObject *node, const char *name)
{
    JsonArray *bitmaps = node != NULL ? fl_json_array(node, "dirty-bitmaps") : NULL;

    for (guint i = 0; i < fl_json_length(bitmaps); i++) {
        JsonObject *bitmap = fl_json_element(bitmaps, i);
        if (g_strcmp0(fl_json_string(bitmap, "name"), name) == 0)
            return bitmap;
    }
    return NULL;
}

/* Returns the node in NODES, of one chain, that has DEPTH images below it, among those that can
 * have bitmaps. */
static JsonObject *node_of_depth(JsonArray *nodes, gint64 depth)
{
    for (guint i = 0; i < fl_json_length(nodes); i++) {
        JsonObject *node = fl_json_element(nodes, i);
        if (fl_json_int(node, "backing_file_depth") == depth &&
            g_strcmp0(fl_json_string(node, "drv"), "qcow2") == 0)
            return node;
    }
    return NULL;
}

static void add_source(JsonArray *sources, const char *node, const char *name)
{
    json_array_add_element(sources,
                           fl_qmp_args(fl_qmp_string("node", node), fl_qmp_string("name", name)));
}

/* Returns the bitmaps to merge, from TOP down; NULL if BITMAP exists only in that image. */
static JsonArray *find_parts(const FlImage *image, JsonArray *nodes, JsonObject *top,
                             FlBitmap *bitmap)
{
    g_autoptr(JsonArray) parts = json_array_new();

    add_source(parts, image->node, bitmap->name);
    for (gint64 depth = fl_json_int(top, "backing_file_depth") - 1; depth >= 0; depth--) {
        JsonObject *node = node_of_depth(nodes, depth);
        JsonObject *part = find_bitmap(node, bitmap->name);

        if (part == NULL)
            break;
        bitmap->inconsistent = bitmap->inconsistent || fl_json_bool(part, "inconsistent");
        add_source(parts, fl_json_string(node, "node-name"), bitmap->name);
    }
    return json_array_get_length(parts) > 1 && !bitmap->inconsistent ? g_steal_pointer(&parts)
                                                                     : NULL;
}

/* Adds a data-less node of the image's size to hold merged bitmaps: those of an image opened
 * read-only cannot be changed. */
static bool add_union_node(const FlImage *image, FlQmp *qmp, JsonObject *top, GError **error)
{
    gint64 size = fl_json_int(fl_json_object(top, "image"), "virtual-size");

    return fl_qmp_call(qmp, "blockdev-add",
                       fl_qmp_args(fl_qmp_string("driver", "null-co"),
                                   fl_qmp_string("node-name", image->union_node),
                                   fl_qmp_int("size", size), fl_qmp_bool("read-zeroes", true)),
                       NULL, error);
}

static bool merge(const FlImage *image, FlQmp *qmp, const FlBitmap *bitmap, JsonArray *parts,
                  GError **error)
{
    JsonNode *sources = fl_json_array_node(parts);

    return fl_qmp_call(qmp, "block-dirty-bitmap-add",
                       fl_qmp_args(fl_qmp_string("node", image->union_node),
                                   fl_qmp_string("name", bitmap->name),
                                   fl_qmp_int("granularity", (gint64)bitmap->granularity),
                                   fl_qmp_bool("disabled", true)),
                       NULL, error) &&
           fl_qmp_call(qmp, "block-dirty-bitmap-merge",
                       fl_qmp_args(fl_qmp_string("node", image->union_node),
                                   fl_qmp_string("target", bitmap->name),
                                   fl_qmp_node("bitmaps", sources)),
                       NULL, error);
}

static bool join_parts(FlImage *image, JsonArray *nodes, JsonObject *top, FlQmp *qmp,
                       GError **error)
{
    GPtrArray *bitmaps = image->info.bitmaps;
    bool added = false;

    for (guint i = 0; i < bitmaps->len; i++) {
        FlBitmap *bitmap = bitmaps->pdata[i];
        g_autoptr(JsonArray) parts = find_parts(image, nodes, top, bitmap);
        g_autoptr(GError) failure = NULL;

        if (parts == NULL)
            continue;
        if (!added && !add_union_node(image, qmp, top, error))
            return false;
        added = true;
        g_ptr_array_add(image->merged, g_strdup(bitmap->name));
        /* Fails for an image that is larger than the one below. */
        if (!merge(image, qmp, bitmap, g_steal_pointer(&parts), &failure)) {
            g_debug("bitmap %s: %s", bitmap->name, failure->message);
            bitmap->torn = true;
        }
    }
    return true;
}

/* Whether an image below has a bitmap with the name of one of BITMAPS. */
static bool has_parts(const FlImage *image, JsonArray *nodes)
{
    const GPtrArray *bitmaps = image->info.bitmaps;

    for (guint i = 0; i < fl_json_length(nodes); i++) {
        JsonObject *node = fl_json_element(nodes, i);
        if (g_strcmp0(fl_json_string(node, "node-name"), image->node) == 0)
            continue;
        for (guint j = 0; j < bitmaps->len; j++) {
            if (find_bitmap(node, ((const FlBitmap *)bitmaps->pdata[j])->name) != NULL)
                return true;
        }
    }
    return false;
}

static JsonObject *find_node(JsonArray *nodes, const char *name)
{
    for (guint i = 0; i < fl_json_length(nodes); i++) {
        JsonObject *node = fl_json_element(nodes, i);
        if (g_strcmp0(fl_json_string(node, "node-name"), name) == 0)
            return node;
    }
    return NULL;
}

/* Leaves out nodes of other images. QEMU reports depths only together with, for each image, a
 * description of all images below it. */
static JsonArray *query_nodes(const FlImage *image, FlQmp *qmp, bool with_depth, JsonNode **reply,
                              GError **error)
{
    JsonArray *nodes;

    if (!fl_qmp_call(qmp, "query-named-block-nodes", fl_qmp_args(fl_qmp_bool("flat", !with_depth)),
                     reply, error))
        return NULL;
    nodes = fl_json_as_array(*reply);
    if (nodes == NULL)
        fl_fail(error, "the storage daemon does not list its nodes");
    for (guint i = fl_json_length(nodes); i-- > 0;) {
        const char *name = fl_json_string(fl_json_element(nodes, i), "node-name");

        if (name != NULL && g_hash_table_contains(image->others, name))
            json_array_remove_element(nodes, i);
    }
    return nodes;
}

bool fl_image_find_others(FlImage *image, FlQmp *qmp, GError **error)
{
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *nodes;

    g_hash_table_remove_all(image->others);
    nodes = query_nodes(image, qmp, false, &reply, error);
    for (guint i = 0; i < fl_json_length(nodes); i++) {
        const char *name = fl_json_string(fl_json_element(nodes, i), "node-name");

        if (name != NULL)
            g_hash_table_add(image->others, g_strdup(name));
    }
    return nodes != NULL;
}

bool fl_image_find_bitmaps(FlImage *image, FlQmp *qmp, GError **error)
{
    GPtrArray *bitmaps = image->info.bitmaps;
    g_autoptr(JsonNode) flat = NULL, deep = NULL;
    JsonArray *nodes = query_nodes(image, qmp, false, &flat, error);

    if (nodes == NULL)
        return false;
    add_bitmaps(bitmaps, fl_json_array(find_node(nodes, image->node), "dirty-bitmaps"));
    if (!has_parts(image, nodes))
        return true;
    nodes = query_nodes(image, qmp, true, &deep, error);
    return nodes != NULL && join_parts(image, nodes, find_node(nodes, image->node), qmp, error);
}
