/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/forget.h"

#include "app/mounts.h"
#include "app/vm-options.h"
#include "snapshot/piece-clock.h"
#include "snapshot/piece-notes.h"
#include "snapshot/point.h"
#include "source/image/layers.h"
#include "source/nbd/nbd.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#define TAKES "--forget takes qmp:PATH, libvirt:DOMAIN or an image"

static bool is_wanted(const char *name, const void *series)
{
    return fl_point_is_ours(name, series);
}

static bool forget_image(const FlOptions *options, const char *path, char **report, GError **error)
{
    g_autofree char *folder = g_get_current_dir();
    /* Not g_canonicalize_filename(), which resolves ".." after a symbolic link wrongly. */
    g_autofree char *absolute =
        g_path_is_absolute(path) ? g_strdup(path) : g_build_filename(folder, path, NULL);
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
    struct stat st;
    bool ok;

    if (stat(path, &st) != 0)
        return fl_fail(error, "cannot open %s: %s; " TAKES, path, g_strerror(errno));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return fl_fail(error, "%s is neither a file nor a block device; " TAKES, path);
    ok = fl_image_remove_bitmaps(absolute, fl_source_value(options->values, "format"), is_wanted,
                                 options->series, lines, error);
    g_ptr_array_add(lines, NULL);
    *report = g_strjoinv("\n", (char **)lines->pdata);
    return ok;
}

static bool forget(const FlOptions *options, char **report, GError **error)
{
    const FlSourceSpec *spec = options->sources->pdata[0];
    FlSnapshotOptions snapshot;

    if (spec->text == NULL || fl_source_is_nbd(spec->text))
        return fl_fail_usage(error, TAKES "; servers have no restore points");
    if (!fl_mounts_check_free(spec->text, error))
        return false;
    if (!fl_source_is_vm(spec->text))
        return forget_image(options, spec->text, report, error);
    snapshot = fl_source_snapshot_options(options, spec);
    if (!fl_snapshot_forget(&snapshot, report, error))
        return false;
    fl_piece_notes_forget(spec->text, options->series);
    if (options->series == NULL)
        fl_piece_clock_forget(spec->text);
    return true;
}

int fl_forget(const FlOptions *options)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *report = NULL;
    const char *source = ((const FlSourceSpec *)options->sources->pdata[0])->text;
    bool ok = forget(options, &report, &error);

    if (report != NULL && *report != '\0')
        puts(report);
    else if (ok && options->series != NULL)
        g_message("%s has no restore point of series '%s'", source, options->series);
    else if (ok)
        g_message("%s has no restore point", source);
    if (ok)
        return 0;
    g_critical("%s", error->message);
    return fl_error_exit_status(error);
}
