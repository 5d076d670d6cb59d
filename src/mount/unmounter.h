/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process that unmounts.
 *
 * Unmounting takes what a daemon that reads strangers' bytes should not have: root's right to it,
 * or fusermount3, which has root's. So a process that never reads any keeps it: it waits for one
 * word, does it and ends; if the daemon ends without that word, so does it. Private to mount/.
 */
#pragma once

#include "util/error.h"

typedef struct FlUnmounter FlUnmounter;

/* MOUNTPOINT is absolute. Called before the rights are given up. */
FlUnmounter *fl_unmounter_new(const char *mountpoint, GError **error);
/* Unmounts, lazily, and waits until that is done, some seconds at most. */
void fl_unmounter_run(FlUnmounter *unmounter);
void fl_unmounter_free(FlUnmounter *unmounter); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlUnmounter, fl_unmounter_free)
