/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bounded wait on a libnbd connection, used by everything that blocks. Private to
 * source/nbd/. */
#pragma once

#include "source/wait.h"
#include "util/error.h"

#include <libnbd.h>

/* Runs a connection until DONE(OPAQUE) returns true, it dies, or WAIT ends. */
bool fl_nbd_wait(struct nbd_handle *nbd, bool (*done)(struct nbd_handle *nbd, void *opaque),
                 void *opaque, const FlWait *wait, GError **error);

/* The message of the last failed call of libnbd in this thread, without the name of its function.
 * Belongs to libnbd; valid until the next call. */
const char *fl_nbd_error(void);

/* Sends a disconnect request if that does not block, and closes the connection. NULL is fine. */
void fl_nbd_close(struct nbd_handle *nbd);
