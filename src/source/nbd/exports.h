/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a server says of its exports. Private to source/nbd/. Blocks. */
#pragma once

#include "endpoint.h"
#include "source/source.h"

/*
 * As fl_source_exports(). Without a NAME, the one that the endpoint's URI has, or every one that
 * the server lists, or the default one where it cannot list.
 */
GPtrArray *fl_nbd_exports(FlEndpoint *endpoint, const char *name, const FlWait *wait,
                          GError **error);
