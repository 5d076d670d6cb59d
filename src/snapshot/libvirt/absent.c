/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stands in for the provider in a build without libvirt. */
#include "snapshot/libvirt/options.h"
#include "snapshot/provider.h"

static FlSnapshot *open_session(const FlSnapshotOptions *options, GError **error)
{
    fl_fail_usage(error,
                  "%s: this fleecefs was built without libvirt; qmp:PATH takes snapshots through "
                  "QEMU's monitor",
                  options->source);
    return NULL;
}

const FlProvider fl_libvirt_provider = {
    .prefix = "libvirt:",
    .usage = "libvirt:DOMAIN",
    .options = fl_libvirt_options,
    .open = open_session,
};
