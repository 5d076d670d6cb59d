/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fingerprint of a disk: some of the bytes that were read from it, by their checksums.
 *
 * A server that was away may come back with another image of the same size and with the same map.
 * Only ranges that were read before are read again: some servers refuse others. Private to disk/.
 */
#pragma once

#include "disk/disk.h"

typedef struct FlFingerprint FlFingerprint;

FlFingerprint *fl_fingerprint_new(void);
FlFingerprint *fl_fingerprint_copy(const FlFingerprint *fingerprint);
void fl_fingerprint_free(FlFingerprint *fingerprint); /* NULL is fine */

/* READ has succeeded; some of the many are kept. */
void fl_fingerprint_note(FlFingerprint *fingerprint, const FlRead *read, const FlExportInfo *info);
/* Reads again what is kept. Blocks. FL_ERROR_CHANGED if it is not the same. */
bool fl_fingerprint_check(const FlFingerprint *fingerprint, FlConn *conn, const FlWait *wait,
                          GError **error);
