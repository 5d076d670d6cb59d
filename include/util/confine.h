/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process that reads a stranger's bytes and only has to compute. */
#pragma once

#include "util/error.h"

#include <stdint.h>

/*
 * From now on this process reads and writes descriptors that are open, takes up to MEMORY bytes of
 * address space, and does nothing else: it opens no file, has no network, starts no process, and is
 * nobody if it was root. Only in a process with one thread. False with an error, and with some of
 * the rights gone, if the kernel or the build cannot have that. A build with sanitizers, which need
 * more, only gives up users.
 */
bool fl_confine(uint64_t memory, GError **error);
