/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The mounts of fleecefs on this machine that this process can see. */
#pragma once

#include "util/error.h"

typedef struct {
    char *mountpoint, *source; /* SOURCE: fl_sources_label() of the mount */
} FlMountLine;

/* All mounts, of FlMountLine, which the result owns; NULL on error. Asks no daemon. */
GPtrArray *fl_mounts_read(GError **error);
/* Fails if a daemon that lives has the source TEXT of the command line mounted, as far as that
 * is certain: paths are compared as absolute ones. May wait 5 s for a daemon that is stopped.
 */
bool fl_mounts_check_free(const char *text, GError **error);
