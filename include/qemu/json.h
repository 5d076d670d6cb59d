/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Access to JSON from a peer. Members that are missing or have an unexpected type are treated
 * alike. OBJECT may be NULL. Returned values belong to the object.
 */
#pragma once

#include "util/error.h"

#include <json-glib/json-glib.h>

/* QEMU nests one level per image of a backing chain, and its own parser accepts 1024. json-glib
 * recurses on each level without a limit. */
#define FL_JSON_MAX_DEPTH 1000u

/* Nesting depth while scanning a text character by character. */
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

/* Parses TEXT as an object, which the caller unrefs. Fails with "broken JSON: ..." or similar if
 * TEXT is not a JSON object, is not UTF-8, or has more than FL_JSON_MAX_DEPTH levels. */
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

/* The length of an array; 0 for NULL. */
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

/* The array or object in NODE, a reply; NULL if NODE is of another type. */
static inline JsonArray *fl_json_as_array(JsonNode *node)
{
    return node != NULL && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
}

static inline JsonObject *fl_json_as_object(JsonNode *node)
{
    return node != NULL && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

/* Wraps ARRAY in a node, taking ownership of it. */
static inline JsonNode *fl_json_array_node(JsonArray *array)
{
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);

    json_node_take_array(node, array);
    return node;
}
