/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "map/maps.h"

#include "map/context.h"

FlDiskMaps *fl_disk_maps_ref(FlDiskMaps *maps)
{
    g_atomic_ref_count_inc(&maps->refs);
    return maps;
}

void fl_disk_maps_unref(FlDiskMaps *maps)
{
    if (maps == NULL || !g_atomic_ref_count_dec(&maps->refs))
        return;
    g_ptr_array_unref(maps->contexts);
    g_ptr_array_unref(maps->maps);
    g_ptr_array_unref(maps->local);
    g_free(maps);
}

FlDiskMaps *fl_disk_maps_new(void)
{
    FlDiskMaps *maps = g_new0(FlDiskMaps, 1);

    g_atomic_ref_count_init(&maps->refs);
    maps->contexts = g_ptr_array_new_with_free_func(g_free);
    maps->maps = g_ptr_array_new_with_free_func((GDestroyNotify)fl_map_unref);
    maps->local = g_ptr_array_new();
    return maps;
}

void fl_disk_maps_add(FlDiskMaps *maps, const char *context, FlMap *map)
{
    g_ptr_array_add(maps->contexts, g_strdup(context));
    g_ptr_array_add(maps->maps, map);
}

void fl_disk_maps_add_local(FlDiskMaps *maps, const char *context, FlMap *map)
{
    fl_disk_maps_add(maps, context, map);
    g_ptr_array_add(maps->local, maps->contexts->pdata[maps->contexts->len - 1]);
}

FlMap *fl_disk_maps_find(const FlDiskMaps *maps, const char *context)
{
    guint i;

    if (!g_ptr_array_find_with_equal_func(maps->contexts, context, g_str_equal, &i))
        return NULL;
    return maps->maps->pdata[i];
}

const char **fl_disk_maps_contexts(const FlDiskMaps *maps)
{
    const char **contexts = g_new0(const char *, maps->contexts->len + 1);
    guint n = 0;

    for (guint i = 0; i < maps->contexts->len; i++) {
        const char *context = maps->contexts->pdata[i];
        if (g_str_equal(context, FL_CONTEXT_NAME_DEPTH) ||
            g_ptr_array_find(maps->local, context, NULL) ||
            (maps->clean_refused && g_str_equal(context, FL_CONTEXT_NAME_ALLOCATION)))
            continue;
        contexts[n++] = context;
    }
    return contexts;
}
