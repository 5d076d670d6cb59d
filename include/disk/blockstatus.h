/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading the maps of an export by NBD block status.
 *
 * All contexts are asked for together. A large disk is cut into segments that are walked with many
 * requests in flight, because a server on the other side of a network costs round trips. What a
 * server replies is checked: ranges are cut at the end of what was asked for, a reply without
 * progress is an error, and so are many that hardly make any, and more than FL_EXTENTS_MAX extents.
 *
 * Blocks; for workers.
 */
#pragma once

#include "disk/endpoint.h"
#include "map/map.h"

/* In all maps of an export together: they take 144 MiB. */
#define FL_EXTENTS_MAX (12u << 20)

/* The maps of one export, one for each context asked for. Immutable, counted. */
typedef struct {
    gatomicrefcount refs;
    GPtrArray *contexts; /* of char * */
    GPtrArray *maps;     /* of FlMap *, by the index of contexts */
    /* The server refuses clean ranges, so base:allocation is known on dirty ranges only; elsewhere
     * its map says data. */
    bool clean_refused;
} FlDiskMaps;

FlDiskMaps *fl_disk_maps_ref(FlDiskMaps *maps);
void fl_disk_maps_unref(FlDiskMaps *maps); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlDiskMaps, fl_disk_maps_unref)

/* The map of CONTEXT, belonging to MAPS, or NULL. */
FlMap *fl_disk_maps_find(const FlDiskMaps *maps, const char *context);

/* Loads the maps of all contexts of INFO from an export that is INFO->size bytes long. */
FlDiskMaps *fl_block_status_load(FlEndpoint *endpoint, const FlExportInfo *info, const FlWait *wait,
                                 GError **error);

/* What fl_block_status_verify() needs negotiated, NULL-terminated: the contexts that can be asked
 * for anywhere. To be freed with g_free(); the strings belong to MAPS. */
const char **fl_disk_maps_contexts(const FlDiskMaps *maps);
/* Asks NBD again for a sample of the disk: FL_ERROR_CHANGED if it is no longer what MAPS say. */
bool fl_block_status_verify(struct nbd_handle *nbd, const FlDiskMaps *maps, const FlWait *wait,
                            GError **error);
