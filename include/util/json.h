/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON output helpers. Missing members are omitted, not null; invalid UTF-8 is replaced. */
#pragma once

#include <json-glib/json-glib.h>

/* Adds a member to the object under construction; does nothing if VALUE is NULL. */
void fl_json_add_string(JsonBuilder *json, const char *name, const char *value);
void fl_json_add_int(JsonBuilder *json, const char *name, gint64 value);
void fl_json_add_bool(JsonBuilder *json, const char *name, gboolean value);

/* The built document, indented, with a final newline. */
GBytes *fl_json_text(JsonBuilder *json);
