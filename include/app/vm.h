/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources that are VMs: takes their snapshots and adds them to the tree. */
#pragma once

#include "app/options.h"
#include "app/opening.h"

/* Takes the snapshot of the VM that OPENING names and adds its disks to the tree. */
bool fl_vm_open(FlOpening *opening, GError **error);
