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
    GString *line = g_string_new(NULL);

    /* Escapes control characters that json-glib leaves as they are: they may control a terminal.
     * Newlines come from json-glib's formatting. */
    for (const char *p = text; *p != '\0'; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        GUnicodeType type = g_unichar_type(c);

        if (c < 0x10000 && c != '\n' &&
            (type == G_UNICODE_CONTROL || type == G_UNICODE_FORMAT ||
             type == G_UNICODE_LINE_SEPARATOR || type == G_UNICODE_PARAGRAPH_SEPARATOR))
            g_string_append_printf(line, "\\u%04x", c);
        else
            g_string_append_unichar(line, c);
    }
    g_string_append_c(line, '\n');
    return g_string_free_to_bytes(line);
}
