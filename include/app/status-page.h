/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Formats status.json for people. */
#pragma once

#include <json-glib/json-glib.h>
#include <stdbool.h>

typedef struct {
    const char *mountpoint;
    unsigned columns; /* wrap width */
    bool wrap;        /* break long names and messages into lines as well */
} FlStatusPageOptions;

/* Formats STATUS, which may be from another version of the daemon: missing values are left out.
 * Untrusted text is made printable. Free with g_free(). */
char *fl_status_page_make(JsonObject *status, const FlStatusPageOptions *options);

/* Adds terminal colours to PAGE. Free with g_free(). */
char *fl_status_page_colour(const char *page);
