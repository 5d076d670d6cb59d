/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading the maps of an export by NBD block status.
 *
 * All contexts are asked for together. A large disk is cut into segments that are walked with many
 * requests in flight, because a server on the other side of a network costs round trips. What a
 * server replies is checked: ranges are cut at the end of what was asked for, a reply without
 * progress is an error, and so are many that hardly make any, and maps of more than FL_MAPS_MAX.
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

/* Asks NBD again for a sample of the disk: FL_ERROR_CHANGED if it is no longer what MAPS say. */
bool fl_block_status_verify(struct nbd_handle *nbd, const FlDiskMaps *maps, const FlWait *wait,
                            GError **error);
