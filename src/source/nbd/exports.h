/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Queries a server about its exports. Private to source/nbd/. Blocks. */
#pragma once

#include "endpoint.h"
#include "source/source.h"

/* Like fl_source_exports(). Without a NAME: the export named in the endpoint's URI, else all that
 * the server lists, or the default export if it cannot list. */
GPtrArray *fl_nbd_exports(FlEndpoint *endpoint, const char *name, const FlWait *wait,
                          GError **error);
