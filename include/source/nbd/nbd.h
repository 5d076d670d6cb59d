/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* NBD servers as sources. Only src/source/nbd/ uses libnbd. */
#pragma once

#include "source/source.h"

/* A server by its NBD URI (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md). The
 * label is the URI without user, password and parameters related to credentials. Memory that the
 * server makes us hold is charged to BUDGET; NULL: to a new one of FL_SOURCE_BUDGET bytes. */
FlSource *fl_source_nbd_new_uri(const char *uri, FlBudget *budget);
/* A server by an O_PATH descriptor of its Unix socket, which is duplicated. */
FlSource *fl_source_nbd_new_socket(int fd, const char *label, FlBudget *budget);

/* A server by the path of its Unix socket, where there may be another server or none later. */
FlSource *fl_source_nbd_new_path(const char *path, const char *label, FlBudget *budget);

/* Fails if files that URI names for TLS are missing, or if the server's certificate would not be
 * verified. Does not connect. */
bool fl_source_nbd_check(const char *uri, GError **error);

/* Whether TEXT is an NBD URI. */
bool fl_source_is_nbd(const char *text);
