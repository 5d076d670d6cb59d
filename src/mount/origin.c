/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/export.h"

FlOrigin *fl_origin_new(const char *source, const char *folder)
{
    FlOrigin *origin = g_new0(FlOrigin, 1);

    origin->source = g_strdup(source);
    origin->folder = g_strdup(folder);
    origin->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)fl_bitmap_free);
    origin->inconsistent = g_ptr_array_new_with_free_func(g_free);
    return origin;
}

void fl_origin_free(FlOrigin *origin)
{
    if (origin == NULL)
        return;
    g_free(origin->source);
    g_free(origin->folder);
    g_ptr_array_unref(origin->bitmaps);
    g_ptr_array_unref(origin->inconsistent);
    g_free(origin->format);
    g_free(origin->mode);
    g_free(origin->reason);
    g_free(origin->restore_point);
    g_free(origin->disk_id);
    g_free(origin->snapshot_id);
    g_free(origin->vm_uuid);
    g_free(origin->vm_name);
    g_free(origin->vm_source);
    g_free(origin->base);
    g_free(origin->increment);
    g_free(origin->scratch);
    fl_times_free(origin->times);
    g_free(origin->place);
    g_free(origin);
}
