/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File names made of names that a server sent. */
#pragma once

#include <glib.h>

/* Longest file name that fl_name_encode makes, in bytes. */
#define FL_NAME_MAX 200

/*
 * A safe file name for a server's NAME: '/', control characters, '%', bytes that are not UTF-8, a
 * leading dot, and a leading dash, which `tar cf FILE *` would take for an option, become %XX. What
 * would then be longer than FL_NAME_MAX is cut and ends in '%' and a hash of the whole name, so
 * that two long names stay apart. An empty name becomes "default".
 */
char *fl_name_encode(const char *name);

/* A stable 64-bit hash of strings, the same on every machine and in every run; NULL ends the list.
 */
guint64 fl_name_hash(const char *first, ...) G_GNUC_NULL_TERMINATED;
