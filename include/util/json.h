/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON for people: members are left out rather than null, bytes that are not UTF-8 are replaced. */
#pragma once

#include <json-glib/json-glib.h>

/* A member of the object under construction; nothing if VALUE is NULL. */
void fl_json_add_string(JsonBuilder *json, const char *name, const char *value);
void fl_json_add_int(JsonBuilder *json, const char *name, gint64 value);
void fl_json_add_bool(JsonBuilder *json, const char *name, gboolean value);

/* What was built, indented, with a newline at the end. */
GBytes *fl_json_text(JsonBuilder *json);
