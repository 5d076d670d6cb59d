/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/json.h"

#include <string.h>

void fl_json_add_string(JsonBuilder *json, const char *name, const char *value)
{
    g_autofree char *valid = NULL;

    if (value == NULL)
        return;
    valid = g_utf8_make_valid(value, -1);
    json_builder_set_member_name(json, name);
    json_builder_add_string_value(json, valid);
}

void fl_json_add_int(JsonBuilder *json, const char *name, gint64 value)
{
    json_builder_set_member_name(json, name);
    json_builder_add_int_value(json, value);
}

void fl_json_add_bool(JsonBuilder *json, const char *name, gboolean value)
{
    json_builder_set_member_name(json, name);
    json_builder_add_boolean_value(json, value);
}

GBytes *fl_json_text(JsonBuilder *json)
{
    g_autoptr(JsonNode) root = json_builder_get_root(json);
    g_autofree char *text = json_to_string(root, TRUE);
    GString *line = g_string_new(text);

    /* The one control character that json-glib forgets to escape. */
    g_string_replace(line, "\x1f", "\\u001f", 0);
    g_string_append_c(line, '\n');
    return g_string_free_to_bytes(line);
}
