/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A private qemu-storage-daemon: an NBD server without exports, and its monitor. The caller opens
 * and exports images.
 */
#pragma once

#include "qemu/qmp.h"
#include "source/server.h"

#define FL_STORAGE_DAEMON "qemu-storage-daemon"

/*
 * Starts a daemon in JAIL (prepared; NULL: none) and connects to its monitor. The caller owns *QMP
 * and must be a thread that lives as long as the server. On failure returns NULL with an error: the
 * daemon's own if it has exited. Stop it with fl_server_free().
 */
FlServer *fl_storage_daemon_start(const FlJail *jail, FlQmp **qmp, GError **error);
/* Call after a monitor command failed with FAILURE, of which this takes ownership. Sets ERROR to
 * the daemon's own error if it has exited, which says more than a lost connection, else to FAILURE.
 */
void fl_storage_daemon_explain(FlServer *server, GError *failure, GError **error);
