/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/vm-options.h"

#include "snapshot/provider.h"
#include "source/nbd/nbd.h"

bool fl_source_is_vm(const char *text)
{
    return fl_provider_find(text) != NULL;
}

static bool has_kind(const FlOptions *options, const FlSourceKind *kind)
{
    for (guint i = 0; i < options->sources->len; i++) {
        const FlSourceSpec *spec = options->sources->pdata[i];

        if ((spec->text == NULL || !fl_source_is_vm(spec->text)) && fl_source_kind_of(spec) == kind)
            return true;
    }
    return false;
}

static bool check_values(const FlOptions *options, GError **error)
{
    for (guint i = 0; i < options->values->len; i++) {
        const FlSourceOption *option = ((const FlSourceValue *)options->values->pdata[i])->option;
        const FlSourceKind *kind = fl_source_kind_of_option(option);

        if (kind != NULL && kind->noun != NULL && !has_kind(options, kind))
            return fl_fail_usage(error, "option %s applies to %s, but no source is one",
                                 option->name, kind->noun);
    }
    return true;
}

/* Rejects options that would be ignored: a user would rely on a frozen guest, or on a single
 * disk. */
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
        return fl_fail_usage(
            error, "option series applies to VMs and their images, but no source is an image or %s",
            usage);
    if (vm || options->snapshot_option == NULL)
        return check_values(options, error);
    return fl_fail_usage(error, "option %s applies to snapshots of VMs, but no source is %s",
                         options->snapshot_option, usage);
}

FlSnapshotOptions fl_source_snapshot_options(const FlOptions *options, const FlSourceSpec *spec)
{
    return (FlSnapshotOptions){
        .source = spec->text,
        .mountpoint = options->mountpoint,
        .disks = (const char *const *)options->disks,
        .series = options->series,
        .scratch = options->scratch,
        .scratch_encrypt = options->scratch_encrypt,
        .agent = options->agent,
        .full = options->full,
        .read_only = options->read_only,
        .agent_optional = options->agent_optional,
        .freeze_timeout = options->freeze_timeout,
        .timeout = options->disk.timeout,
        .values = options->values,
    };
}
