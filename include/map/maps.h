/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "map/map.h"

/* The maps of one export, one for each requested context. Immutable, reference-counted. */
typedef struct {
    gatomicrefcount refs;
    GPtrArray *contexts; /* of char * */
    GPtrArray *maps;     /* of FlMap *, parallel to contexts */
    /* The server rejects requests for clean ranges, so base:allocation is known for dirty ranges
     * only; elsewhere its map says data. */
    bool clean_refused;
    GPtrArray *local; /* those of CONTEXTS not requested from a server */
} FlDiskMaps;

FlDiskMaps *fl_disk_maps_ref(FlDiskMaps *maps);
void fl_disk_maps_unref(FlDiskMaps *maps); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlDiskMaps, fl_disk_maps_unref)

/* The map of CONTEXT, owned by MAPS, or NULL. */
FlMap *fl_disk_maps_find(const FlDiskMaps *maps, const char *context);

/* The contexts for fl_conn_verify(), NULL-terminated: those that every connection can query and
 * that do not change. The allocation depth is excluded: where data lies changes with each write to
 * a disk being fleeced. Free with g_free(); the strings belong to MAPS. */
const char **fl_disk_maps_contexts(const FlDiskMaps *maps);

/* For the loader: creates an empty set, and adds a map, taking ownership of it. */
FlDiskMaps *fl_disk_maps_new(void);
void fl_disk_maps_add(FlDiskMaps *maps, const char *context, FlMap *map);
/* Adds a map that the server does not know; it is not asked to verify it. */
void fl_disk_maps_add_local(FlDiskMaps *maps, const char *context, FlMap *map);
