/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A read in progress in libnbd. Private to source/nbd/.
 *
 * libnbd calls a command's callbacks when it is answered, when the connection dies, and (since
 * 1.16) from nbd_close(): once, twice or never, depending on the version. So libnbd and the caller
 * share what the callbacks use, and the last to release it frees it. The caller is notified once,
 * or not at all after fl_pread_abandon().
 */
#pragma once

#include "walk.h"

typedef struct FlPread FlPread;

/* ERROR is 0, an errno, or FL_READ_WRONG. Called inside libnbd or fl_pread_start(): must not call
 * libnbd. */
typedef void (*FlPreadDone)(void *opaque, int error);

/* Reads into BUF, which must stay valid until DONE is called or NBD is closed; if NULL, into memory
 * owned by the read. Pass the result to fl_pread_abandon(), even after DONE. */
FlPread *fl_pread_start(struct nbd_handle *nbd, void *buf, uint64_t length, uint64_t offset,
                        FlPreadDone done, void *opaque);
/* DONE is not called after this. NULL is fine. */
void fl_pread_abandon(FlPread *pread);

/* Reads N SPANS, some of which may be empty, and waits. BYTES gets a buffer for each (NULL for an
 * empty one), free with g_free(); none on failure. */
bool fl_pread_spans(struct nbd_handle *nbd, const FlSpan *spans, unsigned n, void **bytes,
                    const FlWait *wait, GError **error);
