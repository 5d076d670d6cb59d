/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Confines a process that only computes on untrusted data. */
#pragma once

#include "util/error.h"

#include <stdint.h>

/*
 * From now on this process can only read and write descriptors that are already open, within MEMORY
 * bytes of address space: it cannot open files, use the network or start processes, and runs as
 * nobody if it was root. The process must have a single thread. Returns false with an error if the
 * kernel or the build does not support this; some rights may be gone by then. Builds with
 * sanitizers, which need more system calls, only switch the user.
 */
bool fl_confine(uint64_t memory, GError **error);
