/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/vm.h"

#include "app/origins.h"
#include "app/pieces.h"
#include "app/vm-options.h"
#include "snapshot/fingerprint.h"
#include "source/image/source.h"
#include "source/nbd/nbd.h"

/* If there is only an image, a private server serves it. */
static GPtrArray *find_disk(FlOpening *opening, const FlSnapshot *backup,
                            const FlSnapshotDisk *disk, GError **error)
{
    FlSources *sources = opening->sources;
    FlWait wait = fl_opening_wait(opening);
    GPtrArray *found;

    if (disk->image != NULL)
        return fl_opening_take(opening,
                               fl_source_image_new(disk->image, disk->image_format,
                                                   opening->spec->text, sources->budget, error),
                               error)
                   ? fl_source_exports(opening->source, NULL, &wait, error)
                   : NULL;
    found = fl_source_exports(opening->source, disk->export_name, &wait, error);
    if (found != NULL && disk->served != NULL)
        fl_source_image_add_facts(found->pdata[0], disk->served);
    if (found == NULL && sources->options->values != NULL &&
        fl_source_value(sources->options->values, "nbd") != NULL)
        g_prefix_error(error, "%s: disk %s is not exported by the server given with -o nbd=: ",
                       opening->spec->text, disk->name);
    else if (found == NULL && fl_snapshot_server_uri(backup) != NULL)
        g_prefix_error(error, "%s: disk %s: ", opening->spec->text, disk->name);
    return found;
}

/* Connections to a snapshot stay open, so the disks share the available ones. */
static bool share_connections(const FlOpening *opening, const FlSnapshot *backup,
                              FlDiskOptions *options, GError **error)
{
    guint n = fl_snapshot_disks(backup)->len, most = fl_snapshot_max_clients(backup);

    *options = opening->sources->snapshot_disk;
    if (most == 0 || n * options->connections <= most)
        return true;
    if (n > most)
        return fl_fail(
            error,
            "%s: %u disks need more connections than the NBD server of this VM accepts; back them "
            "up in groups of up to %u (-o disk=, with a series for each group)",
            opening->spec->text, n, most);
    options->connections = most / n;
    g_info("%u disks: %u connections for each", n, options->connections);
    return true;
}

/* Exports of a running VM were compared when the snapshot was taken. */
static void compare_image(const FlOpening *opening, const FlSnapshotDisk *disk,
                          const FlExportInfo *info, FlOrigin *origin)
{
    FlWait wait = fl_opening_wait(opening);
    g_autoptr(GError) failure = NULL;

    if (info->format == NULL || origin->chain.increment == NULL || disk->fingerprint == NULL ||
        fl_point_fingerprint_check(opening->source, info, disk->fingerprint,
                                   origin->chain.increment, &wait, &failure))
        return;
    g_ptr_array_set_size(origin->bitmaps, 0);
    fl_origin_make_full(origin, disk->size, g_strdup(failure->message));
}

/* A disk of a snapshot that is being opened. */
typedef struct {
    const FlSnapshotDisk *disk;
    FlSource *source; /* owned by the sources */
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

static Taken *take_disk(FlOpening *opening, const FlSnapshot *backup, const FlSnapshotDisk *disk,
                        GError **error)
{
    FlSource *server = opening->source;
    g_autoptr(GPtrArray) found = find_disk(opening, backup, disk, error);
    Taken *taken;

    if (found == NULL)
        return NULL;
    taken = g_new(Taken, 1);
    *taken = (Taken){disk, opening->source, g_ptr_array_steal_index(found, 0), NULL};
    taken->origin = fl_origin_of_snapshot(opening->spec, backup, disk, taken->info);
    compare_image(opening, disk, taken->info, taken->origin);
    opening->source = server;
    if (taken->origin->chain.reason != NULL)
        g_message("disk %s: full backup, because %s", disk->name, taken->origin->chain.reason);
    return taken;
}

/* What the mount shows: a snapshot, or the images of a VM that is shut off. */
static char *state_of(const FlSnapshot *backup, const GPtrArray *taken)
{
    g_autoptr(GString) state = g_string_new(NULL);

    for (guint i = 0; i < taken->len; i++) {
        const FlExportInfo *info = ((const Taken *)taken->pdata[i])->info;

        if (info->mtime.tv_sec == 0)
            return g_strdup(fl_snapshot_id(backup));
        fl_pieces_add_image(state, info);
    }
    return g_strdup(state->str);
}

/* Returns the source of data that needs no confirmation, owned by the sources; NULL: none. */
static FlSource *relay_of(const FlOpening *opening, const FlSnapshot *backup)
{
    FlSources *sources = opening->sources;
    FlSource *relay;

    if (fl_snapshot_relay(backup) == NULL)
        return NULL;
    relay = fl_source_nbd_new_path(fl_snapshot_relay(backup), opening->spec->text, sources->budget);
    g_ptr_array_add(sources->sources, relay);
    return relay;
}

static bool add_snapshot_disks(FlOpening *opening, const FlSnapshot *backup, GError **error)
{
    FlSources *sources = opening->sources;
    const GPtrArray *disks = fl_snapshot_disks(backup);
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(taken_free);
    g_autofree char *state = NULL;
    FlDiskOptions options;
    FlSource *relay;

    if (!share_connections(opening, backup, &options, error))
        return false;
    for (guint i = 0; i < disks->len; i++) {
        Taken *taken = take_disk(opening, backup, disks->pdata[i], error);

        if (taken == NULL)
            return false;
        g_ptr_array_add(all, taken);
    }
    state = state_of(backup, all);
    relay = relay_of(opening, backup);
    for (guint i = 0; i < all->len; i++) {
        Taken *taken = all->pdata[i];
        FlExport *export;

        opening->source = taken->source;
        fl_pieces_load(taken->origin, opening->spec, false, sources->options, taken->info, state);
        export = fl_opening_add(opening, g_steal_pointer(&taken->info),
                                g_steal_pointer(&taken->origin), &options, error);
        if (export == NULL)
            return false;
        fl_snapshots_add_disk(sources->snapshots, taken->disk, export, relay);
    }
    return true;
}

bool fl_vm_open(FlOpening *opening, GError **error)
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
    if (source != NULL && !fl_opening_take(opening, source, error))
        return false;
    notes = fl_snapshot_notes(backup);
    for (guint i = 0; i < notes->len; i++)
        g_message("%s", (const char *)notes->pdata[i]);
    times = fl_snapshot_times(backup);
    g_info("snapshot taken in %.1f ms; guest writes held for %.1f ms, guest frozen for %.1f ms",
           times.begin / 1e6, times.held / 1e6, times.frozen / 1e6);
    return add_snapshot_disks(opening, backup, error);
}
