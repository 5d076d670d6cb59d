/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Identifies files and their state. */
#pragma once

#include <glib.h>

/*
 * Returns text that identifies the files PATHS (of char *), in their order, and when they were last
 * written; NULL if there are none. Renaming a file does not change it, writing to it does. What is
 * not a regular file that can be queried is identified by its path alone. Free with g_free().
 */
char *fl_file_ids(const GPtrArray *paths);
