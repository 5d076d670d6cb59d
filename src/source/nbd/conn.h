/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An NBD connection, polled by the loop. Private to source/nbd/. */
#pragma once

#include "source/conn.h"

#include <libnbd.h>

/* Takes over NBD, a handle in transmission phase. */
FlConn *fl_nbd_conn_new(struct nbd_handle *nbd);
