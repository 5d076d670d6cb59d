/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bounded wait for a connection of libnbd's that all that blocks is made of. Private to
 * source/nbd/. */
#pragma once

#include "source/wait.h"
#include "util/error.h"

#include <libnbd.h>

/* Lets a connection work until DONE(OPAQUE), it dies, or WAIT ends. */
bool fl_nbd_wait(struct nbd_handle *nbd, bool (*done)(struct nbd_handle *nbd, void *opaque),
                 void *opaque, const FlWait *wait, GError **error);

/* Says good-bye, as far as that goes without waiting, and closes the connection. NULL is fine. */
void fl_nbd_close(struct nbd_handle *nbd);
