/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON that a peer sent. Of the members of objects, what is absent or of another type than expected
 * is as if it were not there. OBJECT may be NULL. What is returned belongs to the object.
 */
#pragma once

#include "util/error.h"

#include <json-glib/json-glib.h>

/* QEMU nests once for each image of a backing chain, and its own parser takes 1024. json-glib calls
 * itself for each level, and takes as many as there is stack. */
#define FL_JSON_MAX_DEPTH 1000u

/* How deep a text is nested after so many characters of it. */
typedef struct {
    unsigned depth;
    bool in_string, escaped;
} FlJsonScan;

static inline void fl_json_scan(FlJsonScan *scan, char c)
{
    if (scan->escaped)
        scan->escaped = false;
    else if (scan->in_string && c == '\\')
        scan->escaped = true;
    else if (c == '"')
        scan->in_string = !scan->in_string;
    else if (!scan->in_string && (c == '{' || c == '['))
        scan->depth++;
    else if (!scan->in_string && (c == '}' || c == ']') && scan->depth > 0)
        scan->depth--;
}

/* The object that TEXT is, to be unreferenced. An error, "broken JSON: ..." and the like, if it is
 * none, is not UTF-8 or has more than FL_JSON_MAX_DEPTH levels. */
JsonObject *fl_json_parse(const char *text, gsize length, GError **error);

static inline JsonNode *fl_json_value(JsonObject *object, const char *name, GType type)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, name) : NULL;

    return node != NULL && json_node_get_value_type(node) == type ? node : NULL;
}

/* NULL if there is none. */
static inline const char *fl_json_string(JsonObject *object, const char *name)
{
    JsonNode *node = fl_json_value(object, name, G_TYPE_STRING);

    return node != NULL ? json_node_get_string(node) : NULL;
}

/* 0 if there is none. */
static inline gint64 fl_json_int(JsonObject *object, const char *name)
{
    JsonNode *node = fl_json_value(object, name, G_TYPE_INT64);

    return node != NULL ? json_node_get_int(node) : 0;
}

/* False if there is none. */
static inline bool fl_json_bool(JsonObject *object, const char *name)
{
    JsonNode *node = fl_json_value(object, name, G_TYPE_BOOLEAN);

    return node != NULL && json_node_get_boolean(node);
}

/* NULL if there is none. */
static inline JsonObject *fl_json_object(JsonObject *object, const char *name)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, name) : NULL;

    return node != NULL && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

/* NULL if there is none. */
static inline JsonArray *fl_json_array(JsonObject *object, const char *name)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, name) : NULL;

    return node != NULL && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
}

/* The elements of an array; 0 for NULL. */
static inline guint fl_json_length(JsonArray *array)
{
    return array != NULL ? json_array_get_length(array) : 0;
}

/* Element INDEX if it is an object, else NULL. */
static inline JsonObject *fl_json_element(JsonArray *array, guint index)
{
    JsonNode *node = json_array_get_element(array, index);

    return JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

/* The array or object that NODE, a reply, is; NULL if it is another thing. */
static inline JsonArray *fl_json_as_array(JsonNode *node)
{
    return node != NULL && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
}

static inline JsonObject *fl_json_as_object(JsonNode *node)
{
    return node != NULL && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

/* A node of ARRAY, which is taken over. */
static inline JsonNode *fl_json_array_node(JsonArray *array)
{
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);

    json_node_take_array(node, array);
    return node;
}
