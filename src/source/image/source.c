/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/image/source.h"

#include "source/image/daemon.h"
#include "source/kind.h"
#include "source/nbd/nbd.h"

#include <string.h>

typedef struct {
    FlSource source;       /* first; on top of the daemon's NBD source */
    FlImageDaemon *daemon; /* NULL once closed */
} ImageSource;

static FlImageDaemon *daemon_of(const FlSource *source)
{
    return ((const ImageSource *)source)->daemon;
}

void fl_source_image_add_facts(FlExportInfo *info, const FlImageInfo *image)
{
    info->ends_with_last = false;
    info->format = g_strdup(image->format);
    info->mtime = image->mtime;
    info->ctime = image->ctime;
    info->backing = g_strdup(image->backing);
    for (guint i = 0; i < image->bitmaps->len; i++)
        g_ptr_array_add(info->bitmaps, fl_bitmap_copy(image->bitmaps->pdata[i]));
}

static GPtrArray *image_exports(FlSource *source, const char *name, const FlWait *wait,
                                GError **error)
{
    FlImageDaemon *daemon = daemon_of(source);
    g_autoptr(GError) why = NULL;
    GPtrArray *exports = fl_source_exports(source->below, name, wait, &why);

    if (exports != NULL) {
        for (guint i = 0; i < exports->len; i++)
            fl_source_image_add_facts(exports->pdata[i], &daemon->image->info);
    } else if (fl_server_check(daemon->server, FL_SERVER_CHECK_MS, error)) {
        g_propagate_error(error, g_steal_pointer(&why));
    }
    return exports;
}

static char *image_fault(FlSource *source, const char *name)
{
    const FlImageDaemon *daemon = daemon_of(source);

    return daemon != NULL ? fl_image_daemon_fault(daemon) : NULL;
}

static void image_allow(const FlSource *source, FlSandbox *sandbox)
{
    const FlImageDaemon *daemon = daemon_of(source);

    fl_server_allow(daemon->server, sandbox);
    if (daemon->image->open != NULL) {
        g_autofree char *what = g_strdup_printf("QEMU reads %s without a jail: %s",
                                                daemon->image->path, daemon->image->open);

        fl_sandbox_miss(sandbox, what);
    }
}

static void image_close(FlSource *source)
{
    g_clear_pointer(&((ImageSource *)source)->daemon, fl_image_daemon_free);
}

static const FlSourceOps image_ops = {
    .exports = image_exports,
    .fault = image_fault,
    .allow = image_allow,
    .close = image_close,
    .clear = image_close,
};

FlSource *fl_source_image_new(const char *path, const char *format, const char *label,
                              FlBudget *budget, GError **error)
{
    FlImageDaemon *daemon = fl_image_daemon_new(path, format, error);
    FlSource *source;

    if (daemon == NULL)
        return NULL;
    source =
        fl_source_alloc(sizeof(ImageSource), &image_ops, label,
                        fl_source_nbd_new_socket(fl_server_socket(daemon->server), label, budget));
    ((ImageSource *)source)->daemon = daemon;
    return source;
}

/* The kind */

/* If the source is not a file, it is often another kind of source, misspelled. */
static bool check_image(const char *text, GError **error)
{
    g_autofree char *program = NULL;

    if (g_file_test(text, G_FILE_TEST_EXISTS))
        return true;
    if (text[0] == '[')
        return fl_fail_usage(error, "%s: write a space after '[': [ SERVER ARGS... ]", text);
    if (g_str_has_prefix(text, "http://") || g_str_has_prefix(text, "https://"))
        return fl_fail_usage(error,
                             "%s: fleecefs does not read such URLs; use a server: fleecefs [ "
                             "nbdkit curl URL ] MOUNTPOINT",
                             text);
    if (strpbrk(text, "/.:") != NULL)
        return true;
    program = g_find_program_in_path(text);
    if (program != NULL)
        return fl_fail(error, "%s: no such file; to start a server, use brackets: [ %s ARGS... ]",
                       text, text);
    return fl_fail(error, "%s: no such file; for a libvirt VM write libvirt:%s", text, text);
}

static bool is_image(const FlSourceSpec *spec)
{
    return true;
}

static FlSource *open_image(const FlSourceSpec *spec, const FlSourceParams *params, GError **error)
{
    g_autofree char *label = g_canonicalize_filename(spec->text, NULL);

    if (!check_image(spec->text, error))
        return NULL;
    return fl_source_image_new(spec->text, fl_source_value(params->values, "format"), label,
                               params->budget, error);
}

static char *image_label(const FlSourceSpec *spec)
{
    return g_canonicalize_filename(spec->text, NULL);
}

static const FlSourceOption image_options[] = {
    {"format", "FMT", "format of image files (probed)"},
    {NULL},
};

const FlSourceKind fl_source_kind_image = {.is = is_image,
                                           .open = open_image,
                                           .label = image_label,
                                           .one_disk = true,
                                           .options = image_options,
                                           .noun = "image files"};
