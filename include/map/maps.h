/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "map/map.h"

/* The maps of one export, one for each context asked for. Immutable, counted. */
typedef struct {
    gatomicrefcount refs;
    GPtrArray *contexts; /* of char * */
    GPtrArray *maps;     /* of FlMap *, by the index of contexts */
    /* The server refuses clean ranges, so base:allocation is known on dirty ranges only; elsewhere
     * its map says data. */
    bool clean_refused;
    GPtrArray *local; /* those of CONTEXTS that no server was asked for */
} FlDiskMaps;

FlDiskMaps *fl_disk_maps_ref(FlDiskMaps *maps);
void fl_disk_maps_unref(FlDiskMaps *maps); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlDiskMaps, fl_disk_maps_unref)

/* The map of CONTEXT, belonging to MAPS, or NULL. */
FlMap *fl_disk_maps_find(const FlDiskMaps *maps, const char *context);

/* What fl_conn_verify() asks for, NULL-terminated: the contexts that can be asked
 * for anywhere and stay as they are. Not the allocation depth: where data lies changes with every
 * write to a disk that is fleeced. To be freed with g_free(); the strings belong to MAPS. */
const char **fl_disk_maps_contexts(const FlDiskMaps *maps);

/* For who loads them: an empty set; and one map more, which is taken over. */
FlDiskMaps *fl_disk_maps_new(void);
void fl_disk_maps_add(FlDiskMaps *maps, const char *context, FlMap *map);
/* The same of a map that the server knows nothing of: it is not asked to confirm it. */
void fl_disk_maps_add_local(FlDiskMaps *maps, const char *context, FlMap *map);
