/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* NBD servers as sources. libnbd is used below src/source/nbd/ and nowhere else. */
#pragma once

#include "source/source.h"

/* A server by its NBD URI (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md). Its
 * label is the URI without user, password and parameters that tell of credentials. What it makes us
 * remember is taken of BUDGET; NULL: of one of FL_SOURCE_BUDGET bytes. */
FlSource *fl_source_nbd_new_uri(const char *uri, FlBudget *budget);
/* A server by a descriptor (O_PATH) of its Unix socket, duplicated here. */
FlSource *fl_source_nbd_new_socket(int fd, const char *label, FlBudget *budget);

/* Whether TEXT is an NBD URI. */
bool fl_source_is_nbd(const char *text);
