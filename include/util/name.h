/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Makes file names from names sent by a server. */
#pragma once

#include <glib.h>

/* Longest file name that fl_name_encode makes, in bytes. */
#define FL_NAME_MAX 200

/*
 * Turns a server's NAME into a safe file name. '/', control characters, '%', invalid UTF-8, a
 * leading dot and a leading dash (`tar cf FILE *` would take it for an option) become %XX. A result
 * longer than FL_NAME_MAX is cut and ends in '%' and a hash of the whole name, so that long names
 * stay distinct. An empty name becomes "default".
 */
char *fl_name_encode(const char *name);

/* A stable 64-bit hash of a NULL-terminated list of strings, the same on every machine and run. */
guint64 fl_name_hash(const char *first, ...) G_GNUC_NULL_TERMINATED;
