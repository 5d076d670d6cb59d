/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loads the maps of an export by NBD block status.
 *
 * All contexts are queried together. A large disk is split into segments that are walked with many
 * requests in flight, because a remote server costs round trips. Replies are checked: ranges are
 * clipped to the request; a reply without progress is an error, as are many replies with hardly any
 * progress, and maps larger than FL_MAPS_MAX.
 *
 * Blocks; for workers.
 */
#pragma once

#include "endpoint.h"
#include "source/source.h"

/* Bytes of memory for all maps of an export together: 27 million extents (map/map.h). */
#define FL_MAPS_MAX (132u << 20)

/* Loads the maps of all contexts of INFO from an export that is INFO->size bytes long. */
FlDiskMaps *fl_block_status_load(FlEndpoint *endpoint, const FlExportInfo *info, const FlWait *wait,
                                 GError **error);

/* Queries a sample of the disk again through NBD: FL_ERROR_CHANGED if it no longer matches MAPS. */
bool fl_block_status_verify(struct nbd_handle *nbd, const FlDiskMaps *maps, const FlWait *wait,
                            GError **error);
