/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a server says of its exports. Private to source/. */
#pragma once

#include "source/nbd/endpoint.h"

/* Adds to EXPORTS what is known of NAME, or, if that is NULL, of all exports that the server lists:
 * by NBD, a connection to ENDPOINT before an export is chosen. */
bool fl_exports_find(FlEndpoint *endpoint, struct nbd_handle *nbd, const char *name,
                     GPtrArray *exports, const FlWait *wait, GError **error);
