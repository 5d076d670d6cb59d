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
    /* NAMES and VALUES are of the element's attributes, ended by NULL. */
    void (*start)(void *object, const char *path, const char **names, const char **values);
    /* TEXT is what stood between the element's last tag inside it, or its start, and its end. NULL:
     * not called. */
    void (*end)(void *object, const char *path, const char *text);
} FlMarkupReader;

bool fl_markup_read(const FlMarkupReader *reader, const char *xml, GError **error);
/* The value of attribute NAME, or NULL. */
const char *fl_markup_attribute(const char **names, const char **values, const char *name);

/* XML with TEXT in place of that of the elements at PATH, which have no other elements inside. The
 * rest says the same as before. */
char *fl_markup_replace_text(const char *xml, const char *path, const char *text, GError **error);
