/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "map/bitmap.h"

#include "map/context.h"

static bool is_granularity(uint64_t bytes)
{
    return bytes >= 512 && bytes <= G_MAXINT32 && (bytes & (bytes - 1)) == 0;
}

FlBitmap *fl_bitmap_new(const char *name, const char *context, uint64_t granularity)
{
    FlBitmap *bitmap = g_new0(FlBitmap, 1);

    bitmap->name = g_strdup(name != NULL ? name : fl_context_bitmap(context));
    bitmap->context = context != NULL ? g_strdup(context) : fl_context_of_bitmap(name);
    bitmap->granularity = is_granularity(granularity) ? granularity : 0;
    return bitmap;
}

FlBitmap *fl_bitmap_copy(const FlBitmap *bitmap)
{
    FlBitmap *copy = g_memdup2(bitmap, sizeof *bitmap);

    copy->name = g_strdup(bitmap->name);
    copy->context = g_strdup(bitmap->context);
    return copy;
}

void fl_bitmap_free(FlBitmap *bitmap)
{
    if (bitmap == NULL)
        return;
    g_free(bitmap->name);
    g_free(bitmap->context);
    g_free(bitmap);
}

const FlBitmap *fl_bitmap_find(const GPtrArray *bitmaps, const char *context)
{
    for (guint i = 0; i < bitmaps->len; i++) {
        const FlBitmap *bitmap = bitmaps->pdata[i];

        if (g_str_equal(bitmap->context, context))
            return bitmap;
    }
    return NULL;
}
