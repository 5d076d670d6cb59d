/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which sources are VMs, and the command line options for their snapshots. */
#pragma once

#include "app/options.h"
#include "snapshot/snapshot.h"

/* Whether TEXT names a VM, and so requests a snapshot. */
bool fl_source_is_vm(const char *text);
/* Fails if OPTIONS has an option that applies to none of the sources. */
bool fl_sources_check_options(const FlOptions *options, GError **error);
/* The options for snapshot/. The strings belong to OPTIONS and SPEC. */
FlSnapshotOptions fl_source_snapshot_options(const FlOptions *options, const FlSourceSpec *spec);
