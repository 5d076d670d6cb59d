/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "map/context.h"

#include <glib.h>
#include <string.h>

#define BITMAP_PREFIX "qemu:dirty-bitmap:"

FlContextKind fl_context_kind(const char *context)
{
    if (g_str_equal(context, FL_CONTEXT_NAME_ALLOCATION))
        return FL_CONTEXT_ALLOCATION;
    if (fl_context_bitmap(context) != NULL)
        return FL_CONTEXT_DIRTY;
    if (g_str_equal(context, FL_CONTEXT_NAME_DEPTH))
        return FL_CONTEXT_DEPTH;
    return FL_CONTEXT_OTHER;
}

char *fl_context_of_bitmap(const char *name)
{
    return g_strconcat(BITMAP_PREFIX, name, NULL);
}

const char *fl_context_bitmap(const char *context)
{
    return g_str_has_prefix(context, BITMAP_PREFIX) ? context + strlen(BITMAP_PREFIX) : NULL;
}
