/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A read that libnbd has under way. Private to source/nbd/.
 *
 * libnbd calls a command's callbacks when it is answered, when the connection dies, and (since
 * 1.16) from nbd_close(); once, twice or never, by version. So what they use belongs to libnbd as
 * much as to whoever asked, and goes when the last of both has let go of it; who asked hears of it
 * once, or not at all after fl_pread_abandon().
 */
#pragma once

#include "walk.h"

typedef struct FlPread FlPread;

/* ERROR is 0, an errno, or FL_READ_WRONG. Called inside libnbd, or inside fl_pread_start(): it may
 * not call libnbd. */
typedef void (*FlPreadDone)(void *opaque, int error);

/*
 * Reads into BUF, which stays in place until DONE is called or NBD is closed; NULL: into memory
 * that belongs to the read. What is returned is to be given to fl_pread_abandon(), also after DONE.
 */
FlPread *fl_pread_start(struct nbd_handle *nbd, void *buf, uint64_t length, uint64_t offset,
                        FlPreadDone done, void *opaque);
/* DONE is not called any more. NULL is fine. */
void fl_pread_abandon(FlPread *pread);

/* Reads N SPANS, of which some may be empty, and waits. BYTES has a buffer for each (NULL for an
 * empty one), to be freed with g_free(), and none after a failure. */
bool fl_pread_spans(struct nbd_handle *nbd, const FlSpan *spans, unsigned n, void **bytes,
                    const FlWait *wait, GError **error);
