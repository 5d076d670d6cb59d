/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* status.json as a page that a person reads. */
#pragma once

#include <json-glib/json-glib.h>
#include <stdbool.h>

typedef struct {
    const char *mountpoint;
    unsigned columns; /* wrap width */
    bool wrap;        /* long names and messages are broken into lines as well */
} FlStatusPageOptions;

/* The page of STATUS, which may be of another version of the daemon: what is not there is not
 * shown. Foreign text in it is made printable. To be freed with g_free(). */
char *fl_status_page_make(JsonObject *status, const FlStatusPageOptions *options);

/* The page with colours for a terminal. To be freed. */
char *fl_status_page_colour(const char *page);
