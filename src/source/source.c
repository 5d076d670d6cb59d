/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/source.h"

FlExportInfo *fl_export_info_new(const char *name, uint64_t size)
{
    FlExportInfo *info = g_new0(FlExportInfo, 1);

    info->name = g_strdup(name);
    info->size = size;
    info->block_min = 1;
    info->block_preferred = 4096;
    info->block_max = 32 << 20;
    info->multi_conn = true;
    info->contexts = g_ptr_array_new_with_free_func(g_free);
    info->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)fl_bitmap_free);
    return info;
}

void fl_export_info_free(FlExportInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->name);
    g_free(info->description);
    g_ptr_array_unref(info->contexts);
    g_ptr_array_unref(info->bitmaps);
    g_strfreev(info->path);
    g_free(info->format);
    g_free(info->backing);
    g_free(info);
}

bool fl_export_info_has_context(const FlExportInfo *info, const char *context)
{
    return g_ptr_array_find_with_equal_func(info->contexts, context, g_str_equal, NULL);
}

FlSource *fl_source_alloc(size_t bytes, const FlSourceOps *ops, const char *label, FlSource *below)
{
    FlSource *source = g_malloc0(bytes);

    source->ops = ops;
    g_atomic_ref_count_init(&source->refs);
    source->label = g_strdup(label);
    source->below = below;
    return source;
}

FlSource *fl_source_ref(FlSource *source)
{
    g_atomic_ref_count_inc(&source->refs);
    return source;
}

void fl_source_unref(FlSource *source)
{
    if (source == NULL || !g_atomic_ref_count_dec(&source->refs))
        return;
    if (source->ops->clear != NULL)
        source->ops->clear(source);
    fl_source_unref(source->below);
    g_free(source->label);
    g_free(source);
}

const char *fl_source_label(const FlSource *source)
{
    return source->label;
}

GPtrArray *fl_source_exports(FlSource *source, const char *name, const FlWait *wait, GError **error)
{
    while (source->ops->exports == NULL)
        source = source->below;
    return source->ops->exports(source, name, wait, error);
}

FlConn *fl_source_open(FlSource *source, const FlExportInfo *info, const char *const *contexts,
                       const FlWait *wait, GError **error)
{
    while (source->ops->open == NULL)
        source = source->below;
    return source->ops->open(source, info, contexts, wait, error);
}

FlDiskMaps *fl_source_load(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                           GError **error)
{
    while (source->ops->load == NULL)
        source = source->below;
    return source->ops->load(source, info, wait, error);
}

char *fl_source_fault(FlSource *source, const char *name)
{
    char *fault = NULL;

    for (; source != NULL && fault == NULL; source = source->below) {
        if (source->ops->fault != NULL)
            fault = source->ops->fault(source, name);
    }
    return fault;
}

void fl_source_allow(const FlSource *source, FlSandbox *sandbox)
{
    for (; source != NULL; source = source->below) {
        if (source->ops->allow != NULL)
            source->ops->allow(source, sandbox);
    }
}

void fl_source_close(FlSource *source)
{
    for (; source != NULL; source = source->below) {
        if (source->ops->close != NULL)
            source->ops->close(source);
    }
}
