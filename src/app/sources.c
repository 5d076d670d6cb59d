/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/sources.h"

#include "app/mount-clock.h"
#include "app/origins.h"
#include "app/pieces.h"
#include "app/vm-options.h"
#include "app/vm.h"
#include "map/context.h"
#include "snapshot/point.h"
#include "snapshot/provider.h"
#include "util/deadline.h"
#include "util/interrupt.h"

#include <string.h>

/* Time limit for closing all disks. */
#define CLOSE_SECONDS 3

/* Removes fleecefs's internal bitmaps, which are not for users. */
static void forget_notes(FlExportInfo *info)
{
    for (guint i = info->contexts->len; i-- > 0;) {
        const char *bitmap = fl_context_bitmap(info->contexts->pdata[i]);

        if (bitmap != NULL && fl_point_is_note(bitmap))
            g_ptr_array_remove_index(info->contexts, i);
    }
}

/* A block status reply covers at most 4 GiB: maps of larger disks would take forever. */
#define MAPPED_MAX (UINT64_C(1) << 50)

static void forget_huge_maps(const FlOpening *opening, FlExportInfo *info, FlOrigin *origin)
{
    if (info->size <= MAPPED_MAX || info->contexts->len == 0)
        return;
    g_warning("export \"%s\" of %s is larger than 1 PiB: it is mounted without its maps",
              info->name, fl_source_label(opening->source));
    g_ptr_array_set_size(info->contexts, 0);
    origin->no_maps = "the disk is larger than 1 PiB: reading its maps would take too long";
}

/* To a backup tool, an empty tree would look like deleted disks. */
static bool check_sizes(const FlOpening *opening, const GPtrArray *exports, GError **error)
{
    const FlExportInfo *first = exports->pdata[0];

    for (guint i = 0; i < exports->len; i++) {
        if (((const FlExportInfo *)exports->pdata[i])->size > 0)
            return true;
    }
    if (exports->len > 1)
        return fl_fail(error, "all exports of %s have a size of 0: there is nothing to mount",
                       fl_source_label(opening->source));
    return fl_fail(error, "export \"%s\" of %s has a size of 0: there is nothing to mount",
                   first->name, fl_source_label(opening->source));
}

/* The point in time of exports that have none; of no use, and zero, if all have one. */
static struct timespec mount_time(const FlOpening *opening, const GPtrArray *exports)
{
    for (guint i = 0; i < exports->len; i++) {
        if (((const FlExportInfo *)exports->pdata[i])->mtime.tv_sec == 0)
            return fl_mount_clock_next(fl_source_label(opening->source));
    }
    return (struct timespec){0};
}

/* Takes INFO. */
static bool add_export(FlOpening *opening, FlExportInfo *info, const struct timespec *mounted,
                       const FlDiskOptions *disk_options, GError **error)
{
    const FlOptions *options = opening->sources->options;
    FlDiskOptions own = *disk_options;
    FlOrigin *origin = fl_origin_of_export(opening->spec, fl_source_label(opening->source), info,
                                           mounted, options->series);
    g_autoptr(GString) state = g_string_new(NULL);

    forget_huge_maps(opening, info, origin);
    if (info->format != NULL)
        forget_notes(info);
    fl_pieces_add_image(state, info);
    fl_pieces_load(origin, opening->spec, opening->one_disk, options, info, state->str);
    own.keep_one = info->ends_with_last;
    return fl_opening_add(opening, info, origin, &own, error) != NULL;
}

static bool add_exports(FlOpening *opening, GError **error)
{
    FlWait wait = fl_opening_wait(opening);
    g_autoptr(GPtrArray) exports = fl_source_exports(opening->source, NULL, &wait, error);
    FlDiskOptions options = opening->sources->disk;
    struct timespec mounted;

    options.workers = opening->sources->workers;
    if (exports == NULL || !check_sizes(opening, exports, error))
        return false;
    mounted = mount_time(opening, exports);
    while (exports->len > 0) {
        FlExportInfo *info = g_ptr_array_steal_index(exports, 0);

        if (info->size > 0) {
            if (!add_export(opening, info, &mounted, &options, error))
                return false;
            continue;
        }
        g_warning("export \"%s\" of %s has a size of 0: left out", info->name,
                  fl_source_label(opening->source));
        fl_export_info_free(info);
    }
    return true;
}

static bool open_source(FlSources *sources, const FlSourceSpec *spec, GError **error)
{
    FlOpening opening = {.sources = sources,
                         .spec = spec,
                         .params = {.values = sources->options->values,
                                    .budget = sources->budget,
                                    .sources = sources->options->sources->len},
                         .folder = spec->name};
    const FlSourceKind *kind;
    bool several = spec->name == NULL && opening.params.sources > 1;

    if (spec->text != NULL && fl_source_is_vm(spec->text)) {
        if (several)
            opening.folder = spec->text;
        return fl_vm_open(&opening, error);
    }
    kind = fl_source_kind_of(spec);
    if (!fl_opening_take(&opening, kind->open(spec, &opening.params, error), error))
        return false;
    opening.one_disk = kind->one_disk;
    if (several && !opening.one_disk)
        opening.folder = fl_source_label(opening.source);
    return add_exports(&opening, error);
}

static void end_source(gpointer source)
{
    fl_source_close(source);
    fl_source_unref(source);
}

void fl_sources_init(FlSources *sources, const FlOptions *options)
{
    sources->options = options;
    sources->budget = fl_budget_new(FL_SOURCE_BUDGET);
    sources->tree = fl_tree_new();
    sources->cache = fl_cache_new(options->view.cache);
    sources->snapshots = fl_snapshots_new();
    fl_throttle_set(&sources->throttle, options->rate, 0);
    sources->disk = options->disk;
    sources->disk.throttle = &sources->throttle;
    sources->snapshot_disk = sources->disk;
    sources->snapshot_disk.keep_open = true;
    sources->sources = g_ptr_array_new_with_free_func(end_source);
}

bool fl_sources_open(FlSources *sources, GError **error)
{
    const GPtrArray *specs = sources->options->sources;

    sources->workers = sources->snapshot_disk.workers = fl_workers_new(error);
    if (sources->workers == NULL)
        return false;
    for (guint i = 0; i < specs->len; i++) {
        if (!fl_interrupt_check(error) || !open_source(sources, specs->pdata[i], error))
            return false;
    }
    return fl_interrupt_check(error);
}

bool fl_sources_close(FlSources *sources, GError **error)
{
    const GPtrArray *exports = fl_tree_exports(sources->tree);
    gint64 deadline = fl_deadline_in(CLOSE_SECONDS);

    for (guint i = 0; i < exports->len; i++)
        fl_disk_fail(fl_export_disk(exports->pdata[i]), "it was closed");
    for (guint i = 0; i < exports->len; i++)
        fl_disk_close(fl_export_disk(exports->pdata[i]), deadline);
    return fl_snapshots_end(sources->snapshots, error);
}

void fl_sources_allow(const FlSources *sources, FlSandbox *sandbox)
{
    for (guint i = 0; i < sources->sources->len; i++)
        fl_source_allow(sources->sources->pdata[i], sandbox);
    fl_snapshots_allow(sources->snapshots, sandbox);
}

void fl_sources_clear(FlSources *sources)
{
    fl_snapshots_free(sources->snapshots);
    fl_tree_free(sources->tree);
    fl_cache_free(sources->cache);
    g_ptr_array_unref(sources->sources);
    fl_budget_unref(sources->budget);
    fl_workers_unref(sources->workers);
}

static char *label_of(const FlSourceSpec *spec)
{
    const FlProvider *provider = spec->text != NULL ? fl_provider_find(spec->text) : NULL;
    g_autofree char *path = NULL;

    if (provider == NULL)
        return fl_source_kind_of(spec)->label(spec);
    if (!provider->is_path)
        return g_strdup(spec->text);
    path = g_canonicalize_filename(spec->text + strlen(provider->prefix), NULL);
    return g_strconcat(provider->prefix, path, NULL);
}

char *fl_source_text_label(const char *text)
{
    return label_of(&(FlSourceSpec){.text = (char *)text});
}

char **fl_sources_labels(const FlOptions *options)
{
    char **labels = g_new0(char *, options->sources->len + 1);

    for (guint i = 0; i < options->sources->len; i++)
        labels[i] = label_of(options->sources->pdata[i]);
    return labels;
}

char *fl_sources_label(const FlOptions *options)
{
    return options->sources->len > 1 ? g_strdup(FL_SOURCES_SEVERAL)
                                     : label_of(options->sources->pdata[0]);
}
