/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/sources.h"

#include "app/image-point.h"
#include "app/pieces.h"
#include "snapshot/point.h"
#include "snapshot/provider.h"
#include "snapshot/witness.h"
#include "util/deadline.h"
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
    const char *folder; /* NULL: at the root */
    FlEndpoint *endpoint;
    FlServer *server;         /* NULL: not one of ours */
    const FlImageInfo *image; /* NULL: not an image file */
} Opening;

bool fl_source_is_nbd(const char *text)
{
    const char *scheme_end = strstr(text, ":");

    return (g_str_has_prefix(text, "nbd") && scheme_end != NULL &&
            memchr(text, '/', (size_t)(scheme_end - text)) == NULL) &&
           (text[3] == ':' || text[3] == '+' || text[3] == 's');
}

/* Hands over OPENING's endpoint, if it has one, to the sources. */
static void keep_endpoint(Opening *opening)
{
    if (opening->endpoint != NULL)
        g_ptr_array_add(opening->sources->endpoints, g_steal_pointer(&opening->endpoint));
}

static const char *source_name(const FlSourceSpec *spec, const FlEndpoint *endpoint)
{
    return spec->name != NULL ? spec->name : fl_endpoint_label(endpoint);
}

/* The point in time of a server that does not tell one: now. Two mounts in one second may show
 * different disks, and tools compare times exactly. */
static struct timespec now(void)
{
    gint64 us = g_get_real_time();

    return (struct timespec){.tv_sec = us / G_USEC_PER_SEC, .tv_nsec = us % G_USEC_PER_SEC * 1000};
}

static FlOrigin *make_origin(const Opening *opening, const FlExportInfo *export)
{
    const FlImageInfo *image = opening->image;
    FlOrigin *origin = fl_origin_new(source_name(opening->spec, opening->endpoint),
                                     image != NULL ? image->name : export->name);

    origin->time = origin->ctime = now();
    if (image == NULL)
        return origin;
    origin->time = image->mtime;
    origin->ctime = image->ctime;
    origin->format = g_strdup(image->format);
    for (guint i = 0; i < image->bitmaps->len; i++) {
        const FlBitmapInfo *bitmap = image->bitmaps->pdata[i];
        g_autofree char *context = g_strconcat("qemu:dirty-bitmap:", bitmap->name, NULL);

        if (bitmap->torn) {
            g_warning("bitmap \"%s\" of %s is in images of different sizes: the disk was resized "
                      "after an external snapshot; it is not served, take a full backup",
                      bitmap->name, opening->spec->text);
        } else if (bitmap->inconsistent) {
            g_warning("bitmap \"%s\" of %s is inconsistent, because its last writer was killed: it "
                      "is not served, take a full backup",
                      bitmap->name, opening->spec->text);
            g_ptr_array_add(origin->inconsistent, g_strdup(bitmap->name));
        } else if (!fl_image_point_is_note(bitmap->name)) {
            g_ptr_array_add(origin->bitmaps,
                            fl_bitmap_new(context, bitmap->name, bitmap->granularity));
        }
    }
    fl_image_point_choose(origin, image, export->size, opening->sources->options->series);
    return origin;
}

/* Bitmaps that are notes of ours are none for people. */
static void forget_notes(FlExportInfo *info)
{
    for (guint i = info->contexts->len; i-- > 0;) {
        const char *context = info->contexts->pdata[i];
        if (g_str_has_prefix(context, "qemu:dirty-bitmap:") &&
            fl_image_point_is_note(context + strlen("qemu:dirty-bitmap:")))
            g_ptr_array_remove_index(info->contexts, i);
    }
}

/* Takes over INFO and ORIGIN. The export belongs to the tree. */
static FlExport *add_export(const Opening *opening, FlExportInfo *info, FlOrigin *origin,
                            const FlDiskOptions *options, GError **error)
{
    FlSources *sources = opening->sources;
    g_autoptr(FlDisk) disk = fl_disk_new(opening->endpoint, info, options);
    FlExport *export = fl_export_new(disk, origin, sources->cache, &sources->options->view);
    const char *path[] = {opening->folder, origin->folder, NULL};
    const char *const *below = path;

    /* An image is one disk: a name that it was given is that of its folder. */
    if (opening->folder == NULL)
        below = path + 1;
    else if (opening->server != NULL && opening->image != NULL)
        path[1] = NULL;
    return fl_tree_add_export(sources->tree, below, export, error) ? export : NULL;
}

/* Block status tells of 4 GiB at a time: the maps of a larger disk would take for ever. */
#define MAPPED_MAX (UINT64_C(1) << 50)

static void forget_huge_maps(const Opening *opening, FlExportInfo *info, FlOrigin *origin)
{
    if (info->size <= MAPPED_MAX || info->contexts->len == 0)
        return;
    g_warning("export \"%s\" of %s is larger than 1 PiB: it is mounted without its maps",
              info->name, fl_endpoint_label(opening->endpoint));
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
                       fl_endpoint_label(opening->endpoint));
    return fl_fail(error, "export \"%s\" of %s has a size of 0: there is nothing to mount",
                   first->name, fl_endpoint_label(opening->endpoint));
}

static bool add_exports(Opening *opening, GError **error)
{
    FlWait wait = handshake_wait(opening);
    g_autoptr(GError) why = NULL;
    g_autoptr(GPtrArray) exports = fl_endpoint_exports(opening->endpoint, &wait, &why);
    FlDiskOptions options = opening->sources->options->disk;
    guint n = exports != NULL ? exports->len : 0;

    if (exports == NULL) {
        /* A server that could not start knows better why. */
        if (opening->server == NULL || fl_server_check(opening->server, error))
            g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    if (!check_sizes(opening, exports, error))
        return false;
    while (exports->len > 0) {
        FlExportInfo *info = g_ptr_array_steal_index(exports, 0);

        if (info->size > 0) {
            FlOrigin *origin = make_origin(opening, info);

            forget_huge_maps(opening, info, origin);
            if (opening->image != NULL)
                forget_notes(info);
            fl_pieces_load(origin, opening->spec, opening->sources->options, info->size);
            /* qemu-nbd serves one client unless it is told otherwise, and ends with it. Others may
             * want to end, and wait for us to leave. */
            options.keep_one =
                n == 1 && opening->image == NULL && (!info->multi_conn || opening->server != NULL);
            if (add_export(opening, info, origin, &options, error) == NULL)
                return false;
            continue;
        }
        g_warning("export \"%s\" of %s has a size of 0: left out", info->name,
                  fl_endpoint_label(opening->endpoint));
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
    g_autofree char *usage = NULL;

    if (options->command != FL_COMMAND_MOUNT || options->snapshot_option == NULL)
        return true;
    for (guint i = 0; i < options->sources->len; i++) {
        const FlSourceSpec *spec = options->sources->pdata[i];
        if (spec->text != NULL && fl_source_is_vm(spec->text))
            return true;
    }
    usage = fl_providers_usage();
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
        .own = options->own,
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

/* Whether the image of a VM that is shut off has BITMAP whole; the exports of one that runs have.
 */
static bool has_bitmap(const FlImageInfo *image, const FlSnapshotBitmap *bitmap)
{
    for (guint i = 0; image != NULL && i < image->bitmaps->len; i++) {
        const FlBitmapInfo *info = image->bitmaps->pdata[i];
        g_autofree char *context = g_strconcat("qemu:dirty-bitmap:", info->name, NULL);

        if (g_str_equal(bitmap->context, context) && fl_bitmap_info_is_whole(info))
            return true;
    }
    return image == NULL;
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
                                  const FlSnapshotDisk *disk)
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
        const FlSnapshotBitmap *bitmap = disk->bitmaps->pdata[i];
        if (!has_bitmap(opening->image, bitmap)) {
            make_full(origin, disk->size,
                      g_strdup_printf("restore point %s is missing in the image or inconsistent: "
                                      "the VM did not end cleanly, or the image was replaced, or "
                                      "resized after a snapshot",
                                      origin->base));
            continue;
        }
        g_ptr_array_add(origin->bitmaps,
                        fl_bitmap_new(bitmap->context, bitmap->name, bitmap->granularity));
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
    FlServer *server;

    if (disk->image == NULL) {
        GPtrArray *found = fl_endpoint_export(opening->endpoint, disk->export_name, &wait, error);

        if (found == NULL && fl_snapshot_server_uri(backup) != NULL)
            g_prefix_error(error, "%s: disk %s is not exported by the server given with -o nbd=: ",
                           opening->spec->text, disk->name);
        return found;
    }
    server = fl_server_new_image(disk->image, disk->image_format, error);
    if (server == NULL)
        return NULL;
    g_ptr_array_add(sources->servers, server);
    opening->image = fl_server_image(server);
    keep_endpoint(opening);
    opening->endpoint =
        fl_endpoint_new_socket(fl_server_socket(server), opening->spec->text, sources->budget);
    return fl_endpoint_exports(opening->endpoint, &wait, error);
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

    if (opening->image == NULL || origin->increment == NULL || disk->witness == NULL ||
        fl_witness_check(opening->endpoint, info, disk->witness, origin->increment, &wait,
                         &failure))
        return;
    g_ptr_array_set_size(origin->bitmaps, 0);
    make_full(origin, disk->size, g_strdup(failure->message));
}

static bool add_snapshot_disk(Opening *opening, const FlSnapshot *backup,
                              const FlSnapshotDisk *disk, const FlDiskOptions *options,
                              GError **error)
{
    FlSources *sources = opening->sources;
    g_autoptr(GPtrArray) found = find_disk(opening, backup, disk, error);
    FlOrigin *origin;
    FlExport *export;

    if (found == NULL)
        return false;
    origin = make_disk_origin(opening, backup, disk);
    compare_image(opening, disk, found->pdata[0], origin);
    if (origin->reason != NULL)
        g_message("disk %s: a full backup, because %s", disk->name, origin->reason);
    fl_pieces_load(origin, opening->spec, sources->options, disk->size);
    export = add_export(opening, g_ptr_array_steal_index(found, 0), origin, options, error);
    if (export == NULL)
        return false;
    fl_snapshots_add_disk(sources->snapshots, disk, export);
    return true;
}

static bool open_snapshot(Opening *opening, GError **error)
{
    FlSources *sources = opening->sources;
    FlSnapshotOptions options = fl_source_snapshot_options(sources->options, opening->spec);
    FlSnapshot *backup = fl_snapshots_begin(sources->snapshots, &options, error);
    const GPtrArray *disks, *notes;
    FlDiskOptions disk_options;
    FlSnapshotTimes times;

    if (backup == NULL)
        return false;
    if (fl_snapshot_socket(backup) >= 0)
        opening->endpoint = fl_endpoint_new_socket(fl_snapshot_socket(backup), opening->spec->text,
                                                   sources->budget);
    else if (fl_snapshot_server_uri(backup) != NULL)
        opening->endpoint = fl_endpoint_new_uri(fl_snapshot_server_uri(backup), sources->budget);
    notes = fl_snapshot_notes(backup);
    for (guint i = 0; i < notes->len; i++)
        g_message("%s", (const char *)notes->pdata[i]);
    times = fl_snapshot_times(backup);
    g_info("snapshot taken in %.1f ms; the guest's writes held for %.1f ms, the guest frozen for "
           "%.1f ms",
           times.begin / 1e6, times.held / 1e6, times.frozen / 1e6);
    disks = fl_snapshot_disks(backup);
    if (!share_connections(opening, backup, &disk_options, error))
        return false;
    for (guint i = 0; i < disks->len; i++) {
        if (!add_snapshot_disk(opening, backup, disks->pdata[i], &disk_options, error))
            return false;
    }
    return true;
}

static bool start_server(Opening *opening, FlServer *server)
{
    g_autofree char *label = NULL;

    if (server == NULL)
        return false;
    g_ptr_array_add(opening->sources->servers, server);
    opening->server = server;
    opening->image = fl_server_image(server);
    label = opening->spec->argv != NULL ? g_strdup_printf("[ %s ]", opening->spec->argv[0])
                                        : g_canonicalize_filename(opening->spec->text, NULL);
    opening->endpoint =
        fl_endpoint_new_socket(fl_server_socket(server), label, opening->sources->budget);
    return true;
}

/* A source that is no file is often something else, written in another way than it should be. */
static bool check_image(const char *text, GError **error)
{
    g_autofree char *program = NULL;

    if (g_file_test(text, G_FILE_TEST_EXISTS))
        return true;
    if (text[0] == '[')
        return fl_fail_usage(error, "%s: write a space after '[': [ SERVER ARGS... ]", text);
    if (g_str_has_prefix(text, "http://") || g_str_has_prefix(text, "https://"))
        return fl_fail_usage(error,
                             "%s: not read by fleecefs itself; a server that does: fleecefs [ "
                             "nbdkit curl URL ] MOUNTPOINT",
                             text);
    if (strpbrk(text, "/.:") != NULL)
        return true;
    program = g_find_program_in_path(text);
    if (program != NULL)
        return fl_fail(error, "%s: no such file; a server is written in brackets: [ %s ARGS... ]",
                       text, text);
    return fl_fail(error, "%s: no such file; a VM of libvirt is written libvirt:%s", text, text);
}

static bool open_source(FlSources *sources, const FlSourceSpec *spec, GError **error)
{
    Opening opening = {.sources = sources, .spec = spec, .folder = spec->name};
    bool several = spec->name == NULL && sources->options->sources->len > 1;
    bool ok;

    if (spec->text != NULL && fl_source_is_vm(spec->text)) {
        if (several)
            opening.folder = spec->text;
        ok = open_snapshot(&opening, error);
        keep_endpoint(&opening);
        return ok;
    }
    if (spec->argv != NULL) {
        if (!start_server(&opening, fl_server_new_command((const char *const *)spec->argv, error)))
            return false;
    } else if (fl_source_is_nbd(spec->text)) {
        opening.endpoint = fl_endpoint_new_uri(spec->text, sources->budget);
    } else if (!check_image(spec->text, error) ||
               !start_server(&opening,
                             fl_server_new_image(spec->text, sources->options->format, error))) {
        return false;
    }
    if (several && opening.image == NULL)
        opening.folder = fl_endpoint_label(opening.endpoint);
    ok = add_exports(&opening, error);
    keep_endpoint(&opening);
    return ok;
}

void fl_sources_init(FlSources *sources, const FlOptions *options)
{
    sources->options = options;
    sources->budget = fl_budget_new(FL_REMEMBER_MAX);
    sources->tree = fl_tree_new();
    sources->cache = fl_cache_new(options->view.cache);
    sources->snapshots = fl_snapshots_new();
    sources->snapshot_disk = options->disk;
    sources->snapshot_disk.keep_open = true;
    sources->endpoints = g_ptr_array_new_with_free_func((GDestroyNotify)fl_endpoint_unref);
    sources->servers = g_ptr_array_new_with_free_func((GDestroyNotify)fl_server_free);
}

bool fl_sources_open(FlSources *sources, GError **error)
{
    const GPtrArray *specs = sources->options->sources;

    for (guint i = 0; i < specs->len; i++) {
        if (!open_source(sources, specs->pdata[i], error))
            return false;
    }
    return true;
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
    for (guint i = 0; i < sources->endpoints->len; i++)
        fl_endpoint_allow(sources->endpoints->pdata[i], sandbox);
    for (guint i = 0; i < sources->servers->len; i++)
        fl_server_allow(sources->servers->pdata[i], sandbox);
    fl_snapshots_allow(sources->snapshots, sandbox);
}

void fl_sources_clear(FlSources *sources)
{
    fl_snapshots_free(sources->snapshots);
    fl_tree_free(sources->tree);
    fl_cache_free(sources->cache);
    g_ptr_array_unref(sources->endpoints);
    g_ptr_array_unref(sources->servers);
    fl_budget_unref(sources->budget);
}

char *fl_sources_label(const FlOptions *options)
{
    const FlSourceSpec *spec = options->sources->pdata[0];
    g_autoptr(FlEndpoint) endpoint = NULL;

    if (options->sources->len > 1)
        return g_strdup("fleecefs");
    if (spec->argv != NULL)
        return g_strdup(spec->argv[0]);
    if (!fl_source_is_nbd(spec->text))
        return g_strdup(spec->text);
    endpoint = fl_endpoint_new_uri(spec->text, NULL);
    return g_strdup(fl_endpoint_label(endpoint));
}
