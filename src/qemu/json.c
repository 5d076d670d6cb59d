/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qemu/json.h"

#include "qemu/json-syntax.h"

JsonObject *fl_json_parse(const char *text, gsize length, GError **error)
{
    /* Not an immutable tree: json-glib 1.10 aborts if a text contains two values. */
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) failure = NULL;
    FlJsonScan scan = {0};
    JsonNode *root;

    for (gsize i = 0; i < length && scan.depth <= FL_JSON_MAX_DEPTH; i++)
        fl_json_scan(&scan, text[i]);
    root = NULL;
    if (scan.depth > FL_JSON_MAX_DEPTH)
        fl_fail(error, "JSON of more than %u levels", FL_JSON_MAX_DEPTH);
    else if (!g_utf8_validate_len(text, length, NULL))
        fl_fail(error, "JSON that is not UTF-8");
    else if (!fl_json_is_valid(text, length, FL_JSON_MAX_DEPTH))
        fl_fail(error, "broken JSON");
    else if (!json_parser_load_from_data(parser, text, (gssize)length, &failure))
        fl_fail(error, "broken JSON: %s", failure->message);
    else if ((root = json_parser_get_root(parser)) == NULL || !JSON_NODE_HOLDS_OBJECT(root))
        fl_fail(error, "JSON that is not an object");
    else
        return json_node_dup_object(root);
    return NULL;
}
