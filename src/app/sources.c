/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/sources.h"

#include "app/image-point.h"
#include "app/pieces.h"
#include "map/context.h"
#include "snapshot/point.h"
#include "snapshot/provider.h"
#include "snapshot/witness.h"
#include "source/image/source.h"
#include "source/nbd/nbd.h"
#include "util/deadline.h"
#include "util/interrupt.h"
#include "util/size.h"

#include <string.h>

/* The most that all disks together may take to end. */
#define CLOSE_SECONDS 3
/* All that is asked of a server at first may take so many times what one answer may: one that is
 * always just in time would have its thousands of exports last for days. */
#define HANDSHAKE_TIMEOUTS 4

/* A source that is being opened. */
typedef struct {
    FlSources *sources;
    const FlSourceSpec *spec;
    FlSourceParams params;
    const char *folder; /* NULL: at the root */
    FlSource *source;   /* belongs to SOURCES */
    bool one_disk;      /* a name that it was given is that of the disk's folder */
} Opening;

static const char *source_name(const Opening *opening)
{
    return opening->spec->name != NULL ? opening->spec->name : fl_source_label(opening->source);
}

/* Takes over SOURCE, unless that is NULL and the error is set, with all that options lay over it.
 */
static bool take_source(Opening *opening, FlSource *source, GError **error)
{
    opening->source = fl_source_kind_lay_over(source, &opening->params, error);
    if (opening->source == NULL)
        return false;
    g_ptr_array_add(opening->sources->sources, opening->source);
    return true;
}

/* The point in time of a server that does not tell one: now. Two mounts in one second may show
 * different disks, and tools compare times exactly. */
static struct timespec now(void)
{
    gint64 us = g_get_real_time();

    return (struct timespec){.tv_sec = us / G_USEC_PER_SEC, .tv_nsec = us % G_USEC_PER_SEC * 1000};
}

/* Of a disk that lies deeper in the tree than others, inodes are told apart by its export's
 * name. */
static FlOrigin *new_origin(const Opening *opening, const FlExportInfo *export)
{
    g_autofree char *source = NULL;

    if (export->path == NULL)
        return fl_origin_new(source_name(opening), export->name);
    source = g_build_filename(source_name(opening), export->name, NULL);
    return fl_origin_new(source, export->path[g_strv_length(export->path) - 1]);
}

static FlOrigin *make_origin(const Opening *opening, const FlExportInfo *export)
{
    FlOrigin *origin = new_origin(opening, export);

    origin->time = origin->ctime = now();
    if (export->mtime.tv_sec == 0)
        return origin;
    origin->time = export->mtime;
    origin->ctime = export->ctime;
    origin->format = g_strdup(export->format);
    for (guint i = 0; i < export->bitmaps->len; i++) {
        const FlBitmap *bitmap = export->bitmaps->pdata[i];

        if (bitmap->torn) {
            g_warning("bitmap \"%s\" of %s is in images of different sizes: the disk was resized "
                      "after an external snapshot; it is not served, take a full backup",
                      bitmap->name, opening->spec->text);
        } else if (bitmap->inconsistent) {
            g_warning("bitmap \"%s\" of %s is inconsistent, because its last writer was killed: it "
                      "is not served, take a full backup",
                      bitmap->name, opening->spec->text);
            g_ptr_array_add(origin->inconsistent, g_strdup(bitmap->name));
        } else if (!fl_point_is_note(bitmap->name)) {
            g_ptr_array_add(origin->bitmaps, fl_bitmap_copy(bitmap));
        }
    }
    fl_image_point_choose(origin, export, opening->sources->options->series);
    if (origin->reason != NULL)
        g_message("%s: a full backup, because %s", opening->spec->text, origin->reason);
    return origin;
}

/* Bitmaps that are notes of ours are none for people. */
static void forget_notes(FlExportInfo *info)
{
    for (guint i = info->contexts->len; i-- > 0;) {
        const char *bitmap = fl_context_bitmap(info->contexts->pdata[i]);

        if (bitmap != NULL && fl_point_is_note(bitmap))
            g_ptr_array_remove_index(info->contexts, i);
    }
}

/* Takes over INFO and ORIGIN. The export belongs to the tree. */
static FlExport *add_export(const Opening *opening, FlExportInfo *info, FlOrigin *origin,
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

/* Block status tells of 4 GiB at a time: the maps of a larger disk would take for ever. */
#define MAPPED_MAX (UINT64_C(1) << 50)

static void forget_huge_maps(const Opening *opening, FlExportInfo *info, FlOrigin *origin)
{
    if (info->size <= MAPPED_MAX || info->contexts->len == 0)
        return;
    g_warning("export \"%s\" of %s is larger than 1 PiB: it is mounted without its maps",
              info->name, fl_source_label(opening->source));
    g_ptr_array_set_size(info->contexts, 0);
    origin->no_maps = "the disk is larger than 1 PiB: to ask for them would take too long";
}

static FlWait handshake_wait(const Opening *opening)
{
    FlWait wait = {.seconds = opening->sources->options->disk.timeout};

    wait.deadline = fl_deadline_in((guint64)HANDSHAKE_TIMEOUTS * wait.seconds);
    return wait;
}

/* An empty tree would look like a disk that has gone to whoever copies it. */
static bool check_sizes(const Opening *opening, const GPtrArray *exports, GError **error)
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

static bool add_exports(Opening *opening, GError **error)
{
    FlWait wait = handshake_wait(opening);
    g_autoptr(GPtrArray) exports = fl_source_exports(opening->source, NULL, &wait, error);
    FlDiskOptions options = opening->sources->options->disk;

    if (exports == NULL || !check_sizes(opening, exports, error))
        return false;
    while (exports->len > 0) {
        FlExportInfo *info = g_ptr_array_steal_index(exports, 0);

        if (info->size > 0) {
            FlOrigin *origin = make_origin(opening, info);
            g_autoptr(GString) state = g_string_new(NULL);

            forget_huge_maps(opening, info, origin);
            if (info->format != NULL)
                forget_notes(info);
            fl_pieces_add_image(state, info);
            fl_pieces_load(origin, opening->spec, opening->one_disk, opening->sources->options,
                           info, state->str);
            options.keep_one = info->ends_with_last;
            if (add_export(opening, info, origin, &options, error) == NULL)
                return false;
            continue;
        }
        g_warning("export \"%s\" of %s has a size of 0: left out", info->name,
                  fl_source_label(opening->source));
        fl_export_info_free(info);
    }
    return true;
}

/* Snapshots of VMs */

bool fl_source_is_vm(const char *text)
{
    return fl_provider_find(text) != NULL;
}

/* An option that is ignored would promise what is not done: a frozen guest, one disk only. */
bool fl_sources_check_options(const FlOptions *options, GError **error)
{
    g_autofree char *usage = fl_providers_usage();
    bool vm = false, image = false;

    if (options->command != FL_COMMAND_MOUNT)
        return true;
    for (guint i = 0; i < options->sources->len; i++) {
        const FlSourceSpec *spec = options->sources->pdata[i];
        vm = vm || (spec->text != NULL && fl_source_is_vm(spec->text));
        image = image || (spec->text != NULL && !fl_source_is_nbd(spec->text));
    }
    if (options->series != NULL && !vm && !image)
        return fl_fail_usage(error,
                             "option series is for VMs and their images, and no source is an "
                             "image or %s",
                             usage);
    if (vm || options->snapshot_option == NULL)
        return true;
    return fl_fail_usage(error, "option %s is for snapshots of VMs, and no source is %s",
                         options->snapshot_option, usage);
}

FlSnapshotOptions fl_source_snapshot_options(const FlOptions *options, const FlSourceSpec *spec)
{
    return (FlSnapshotOptions){
        .source = spec->text,
        .disks = (const char *const *)options->disks,
        .series = options->series,
        .scratch = options->scratch,
        .agent = options->agent,
        .full = options->full,
        .agent_optional = options->agent_optional,
        .freeze_timeout = options->freeze_timeout,
        .timeout = options->disk.timeout,
        .values = options->values,
    };
}

/* Whose scratch file it is. */
typedef struct {
    const FlSnapshot *backup;
    const FlSnapshotDisk *disk;
} Scratch;

static void scratch_use(const void *opaque, uint64_t *used, uint64_t *limit)
{
    const Scratch *scratch = opaque;

    fl_snapshot_scratch_use(scratch->backup, scratch->disk, used, limit);
}

/* Whether INFO, if it is the image of a VM that is shut off, has BITMAP whole; the exports of one
 * that runs have. */
static bool has_bitmap(const FlExportInfo *info, const FlBitmap *bitmap)
{
    const FlBitmap *found = fl_bitmap_find(info->bitmaps, bitmap->context);

    return info->format == NULL || (found != NULL && fl_bitmap_is_whole(found));
}

/* SIZE: of the disk, in bytes. Takes REASON. */
static void make_full(FlOrigin *origin, uint64_t size, char *reason)
{
    g_autofree char *id = fl_point_id(origin->time.tv_sec);

    g_free(origin->mode);
    origin->mode = g_strdup("full");
    g_free(origin->reason);
    origin->reason = reason;
    g_clear_pointer(&origin->base, g_free);
    g_clear_pointer(&origin->increment, g_free);
    g_free(origin->disk_id);
    origin->disk_id = fl_point_disk_id(id, size, NULL);
}

/* Rounded up, so that 0 is what has not been. */
static unsigned in_ms(uint64_t ns)
{
    return (unsigned)fl_div_up(ns, 1000000);
}

static FlOrigin *make_disk_origin(const Opening *opening, const FlSnapshot *backup,
                                  const FlSnapshotDisk *disk, const FlExportInfo *info)
{
    const FlSourceSpec *spec = opening->spec;
    const FlSnapshotVm *vm = fl_snapshot_vm(backup);
    FlSnapshotTimes times = fl_snapshot_times(backup);
    FlOrigin *origin = fl_origin_new(spec->name != NULL ? spec->name : spec->text, disk->name);

    origin->time = origin->ctime = fl_snapshot_time(backup);
    origin->snapshot = true;
    origin->begin_ms = in_ms(times.begin);
    origin->held_ms = in_ms(times.held);
    origin->frozen_ms = in_ms(times.frozen);
    origin->scratch_use = scratch_use;
    origin->scratch = g_memdup2(&(Scratch){.backup = backup, .disk = disk}, sizeof(Scratch));
    origin->mode = g_strdup(disk->base != NULL ? "incremental" : "full");
    origin->reason = g_strdup(disk->reason);
    origin->restore_point = g_strdup(disk->restore_point);
    origin->base = g_strdup(disk->base);
    origin->disk_id = g_strdup(disk->disk_id);
    origin->snapshot_id = g_strdup(fl_snapshot_id(backup));
    origin->vm_uuid = g_strdup(vm->uuid);
    origin->vm_name = g_strdup(vm->name);
    origin->vm_source = g_strdup(vm->source);
    for (guint i = 0; i < disk->bitmaps->len; i++) {
        const FlBitmap *bitmap = disk->bitmaps->pdata[i];
        if (!has_bitmap(info, bitmap)) {
            make_full(origin, disk->size,
                      g_strdup_printf("restore point %s is missing in the image or inconsistent: "
                                      "the VM did not end cleanly, or the image was replaced, or "
                                      "resized after a snapshot",
                                      origin->base));
            continue;
        }
        g_ptr_array_add(origin->bitmaps, fl_bitmap_copy(bitmap));
        if (i == 0 && disk->base != NULL)
            origin->increment = g_strdup(bitmap->context);
    }
    return origin;
}

/* Of a VM that is shut off there is the image only: a server of ours has to serve it. */
static GPtrArray *find_disk(Opening *opening, const FlSnapshot *backup, const FlSnapshotDisk *disk,
                            GError **error)
{
    FlSources *sources = opening->sources;
    FlWait wait = handshake_wait(opening);
    GPtrArray *found;

    if (disk->image != NULL)
        return take_source(opening,
                           fl_source_image_new(disk->image, disk->image_format, opening->spec->text,
                                               sources->budget, error),
                           error)
                   ? fl_source_exports(opening->source, NULL, &wait, error)
                   : NULL;
    found = fl_source_exports(opening->source, disk->export_name, &wait, error);
    if (found == NULL && sources->options->values != NULL &&
        fl_source_value(sources->options->values, "nbd") != NULL)
        g_prefix_error(error, "%s: disk %s is not exported by the server given with -o nbd=: ",
                       opening->spec->text, disk->name);
    return found;
}

/* Connections to a snapshot stay open, so the disks share what there is. */
static bool share_connections(const Opening *opening, const FlSnapshot *backup,
                              FlDiskOptions *options, GError **error)
{
    guint n = fl_snapshot_disks(backup)->len, most = fl_snapshot_max_clients(backup);

    *options = opening->sources->snapshot_disk;
    if (most == 0 || n * options->connections <= most)
        return true;
    if (n > most)
        return fl_fail(error,
                       "%s: %u disks are more than the NBD server of this VM has connections for; "
                       "back them up in groups of up to %u (-o disk=, with a series for each)",
                       opening->spec->text, n, most);
    options->connections = most / n;
    g_info("%u disks: %u connections for each", n, options->connections);
    return true;
}

/* The exports of a VM that runs were compared when the snapshot was taken. */
static void compare_image(const Opening *opening, const FlSnapshotDisk *disk,
                          const FlExportInfo *info, FlOrigin *origin)
{
    FlWait wait = handshake_wait(opening);
    g_autoptr(GError) failure = NULL;

    if (info->format == NULL || origin->increment == NULL || disk->witness == NULL ||
        fl_witness_check(opening->source, info, disk->witness, origin->increment, &wait, &failure))
        return;
    g_ptr_array_set_size(origin->bitmaps, 0);
    make_full(origin, disk->size, g_strdup(failure->message));
}

/* A disk of a snapshot, on its way into the tree. */
typedef struct {
    const FlSnapshotDisk *disk;
    FlSource *source; /* belongs to the sources */
    FlExportInfo *info;
    FlOrigin *origin;
} Taken;

static void taken_free(gpointer data)
{
    Taken *taken = data;

    fl_export_info_free(taken->info);
    fl_origin_free(taken->origin);
    g_free(taken);
}

static Taken *take_disk(Opening *opening, const FlSnapshot *backup, const FlSnapshotDisk *disk,
                        GError **error)
{
    g_autoptr(GPtrArray) found = find_disk(opening, backup, disk, error);
    Taken *taken;

    if (found == NULL)
        return NULL;
    taken = g_new(Taken, 1);
    *taken = (Taken){disk, opening->source, g_ptr_array_steal_index(found, 0), NULL};
    taken->origin = make_disk_origin(opening, backup, disk, taken->info);
    compare_image(opening, disk, taken->info, taken->origin);
    if (taken->origin->reason != NULL)
        g_message("disk %s: a full backup, because %s", disk->name, taken->origin->reason);
    return taken;
}

/* What is shown of the VM: a snapshot, or the images of one that is shut off. */
static char *state_of(const FlSnapshot *backup, const GPtrArray *taken)
{
    GString *state = g_string_new(NULL);

    for (guint i = 0; i < taken->len; i++) {
        const FlExportInfo *info = ((const Taken *)taken->pdata[i])->info;

        if (info->mtime.tv_sec != 0)
            fl_pieces_add_image(state, info);
    }
    if (state->len == 0)
        g_string_append(state, fl_snapshot_id(backup));
    return g_string_free(state, FALSE);
}

static bool add_snapshot_disks(Opening *opening, const FlSnapshot *backup, GError **error)
{
    FlSources *sources = opening->sources;
    const GPtrArray *disks = fl_snapshot_disks(backup);
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(taken_free);
    g_autofree char *state = NULL;
    FlDiskOptions options;

    if (!share_connections(opening, backup, &options, error))
        return false;
    for (guint i = 0; i < disks->len; i++) {
        Taken *taken = take_disk(opening, backup, disks->pdata[i], error);

        if (taken == NULL)
            return false;
        g_ptr_array_add(all, taken);
    }
    state = state_of(backup, all);
    for (guint i = 0; i < all->len; i++) {
        Taken *taken = all->pdata[i];
        FlExport *export;

        opening->source = taken->source;
        fl_pieces_load(taken->origin, opening->spec, false, sources->options, taken->info, state);
        export = add_export(opening, g_steal_pointer(&taken->info), g_steal_pointer(&taken->origin),
                            &options, error);
        if (export == NULL)
            return false;
        fl_snapshots_add_disk(sources->snapshots, taken->disk, export);
    }
    return true;
}

static bool open_snapshot(Opening *opening, GError **error)
{
    FlSources *sources = opening->sources;
    FlSnapshotOptions options = fl_source_snapshot_options(sources->options, opening->spec);
    FlSnapshot *backup = fl_snapshots_begin(sources->snapshots, &options, error);
    FlSource *source = NULL;
    const GPtrArray *notes;
    FlSnapshotTimes times;

    if (backup == NULL)
        return false;
    if (fl_snapshot_socket(backup) >= 0)
        source = fl_source_nbd_new_socket(fl_snapshot_socket(backup), opening->spec->text,
                                          sources->budget);
    else if (fl_snapshot_server_uri(backup) != NULL)
        source = fl_source_nbd_new_uri(fl_snapshot_server_uri(backup), sources->budget);
    if (source != NULL && !take_source(opening, source, error))
        return false;
    notes = fl_snapshot_notes(backup);
    for (guint i = 0; i < notes->len; i++)
        g_message("%s", (const char *)notes->pdata[i]);
    times = fl_snapshot_times(backup);
    g_info("snapshot taken in %.1f ms; the guest's writes held for %.1f ms, the guest frozen for "
           "%.1f ms",
           times.begin / 1e6, times.held / 1e6, times.frozen / 1e6);
    return add_snapshot_disks(opening, backup, error);
}

static bool open_source(FlSources *sources, const FlSourceSpec *spec, GError **error)
{
    Opening opening = {.sources = sources,
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
        return open_snapshot(&opening, error);
    }
    kind = fl_source_kind_of(spec);
    if (!take_source(&opening, kind->open(spec, &opening.params, error), error))
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
    sources->snapshot_disk = options->disk;
    sources->snapshot_disk.keep_open = true;
    sources->sources = g_ptr_array_new_with_free_func(end_source);
}

bool fl_sources_open(FlSources *sources, GError **error)
{
    const GPtrArray *specs = sources->options->sources;

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
}

char *fl_sources_label(const FlOptions *options)
{
    const FlSourceSpec *spec = options->sources->pdata[0];

    if (options->sources->len > 1)
        return g_strdup("fleecefs");
    return spec->text != NULL && fl_source_is_vm(spec->text) ? g_strdup(spec->text)
                                                             : fl_source_kind_of(spec)->label(spec);
}
