/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* In place of the provider, in a build without libvirt. */
#include "snapshot/provider.h"

static FlSnapshot *open_session(const FlSnapshotOptions *options, GError **error)
{
    fl_fail_usage(error,
                  "%s: this fleecefs was built without libvirt; qmp:PATH takes snapshots by "
                  "QEMU's own monitor",
                  options->source);
    return NULL;
}

const FlProvider fl_libvirt_provider = {
    .prefix = "libvirt:",
    .usage = "libvirt:DOMAIN",
    .open = open_session,
};
