/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/opening.h"

#include "util/deadline.h"

/* Limit for listing all exports, in timeouts of a single answer: otherwise a server that answers
 * each request just in time could take days for thousands of exports. */
#define HANDSHAKE_TIMEOUTS 4

bool fl_opening_take(FlOpening *opening, FlSource *source, GError **error)
{
    opening->source = fl_source_kind_lay_over(source, &opening->params, error);
    if (opening->source == NULL)
        return false;
    g_ptr_array_add(opening->sources->sources, opening->source);
    return true;
}

FlExport *fl_opening_add(const FlOpening *opening, FlExportInfo *info, FlOrigin *origin,
                         const FlDiskOptions *options, GError **error)
{
    FlSources *sources = opening->sources;
    g_autoptr(FlDisk) disk = fl_disk_new(opening->source, info, options);
    FlExport *export = fl_export_new(disk, origin, sources->cache, &sources->options->view);
    g_autoptr(GPtrArray) path = g_ptr_array_new();

    if (opening->folder != NULL)
        g_ptr_array_add(path, (char *)opening->folder);
    for (guint i = 0; info->path != NULL && info->path[i] != NULL; i++)
        g_ptr_array_add(path, info->path[i]);
    if (info->path == NULL && (opening->folder == NULL || !opening->one_disk))
        g_ptr_array_add(path, origin->folder);
    g_ptr_array_add(path, NULL);
    return fl_tree_add_export(sources->tree, (const char *const *)path->pdata, export, error)
               ? export
               : NULL;
}

FlWait fl_opening_wait(const FlOpening *opening)
{
    FlWait wait = {.seconds = opening->sources->options->disk.timeout};

    wait.deadline = fl_deadline_in((guint64)HANDSHAKE_TIMEOUTS * wait.seconds);
    return wait;
}
