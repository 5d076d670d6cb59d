/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * XML from libvirt, read by the path of each element ("domain/devices/disk") with GLib's parser.
 * Pure; errors are FL_ERROR.
 */
#pragma once

#include "util/error.h"

#include <glib.h>

typedef struct {
    void *object;
    /* NAMES and VALUES are the element's attributes, NULL-terminated. */
    void (*start)(void *object, const char *path, const char **names, const char **values);
    /* TEXT is the text between the last child element (or the start tag) and the end tag. NULL: not
     * called. */
    void (*end)(void *object, const char *path, const char *text);
} FlMarkupReader;

bool fl_markup_read(const FlMarkupReader *reader, const char *xml, GError **error);
/* The value of the attribute NAME, or NULL. */
const char *fl_markup_attribute(const char **names, const char **values, const char *name);

/* Returns XML with the text of the elements at PATH, which must not have child elements, replaced
 * by TEXT. The rest stays equivalent. */
char *fl_markup_replace_text(const char *xml, const char *path, const char *text, GError **error);
