/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/origin.h"

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
    g_free(origin->chain.mode);
    g_free(origin->chain.reason);
    g_free(origin->chain.restore_point);
    g_free(origin->chain.base);
    g_free(origin->chain.increment);
    g_free(origin->chain.disk_id);
    g_free(origin->vm.uuid);
    g_free(origin->vm.name);
    g_free(origin->vm.source);
    g_free(origin->snapshot.id);
    g_free(origin->snapshot.scratch);
    fl_times_free(origin->pieces.times);
    g_clear_pointer(&origin->pieces.shown, g_ptr_array_unref);
    g_free(origin->pieces.place);
    g_free(origin->pieces.foreign);
    g_free(origin);
}
