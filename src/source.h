/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources: from what the command line names to exports in the tree. */
#pragma once

#include "disk/server.h"
#include "mount/tree.h"
#include "options.h"

/* What lives as long as the mount. */
typedef struct {
    const FlOptions *options;
    FlTree *tree;
    FlCache *cache;
    GPtrArray *servers; /* of FlServer: those that we started */
} FlSources;

/* Opens all sources of OPTIONS, which outlives it, and puts their exports into the tree. */
bool fl_sources_open(FlSources *sources, const FlOptions *options, GError **error);
/* Closes all disks and ends the servers. A cleared one is fine. */
void fl_sources_clear(FlSources *sources);

/* What mount(8) shows as the source; to be freed with g_free(). */
char *fl_sources_label(const FlOptions *options);
