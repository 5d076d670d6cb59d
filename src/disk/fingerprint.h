/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fingerprint of a disk: checksums of samples of the bytes read from it.
 *
 * A server that was away may come back with another image of the same size and with the same map.
 * Only ranges that were read before are read again, since some servers reject others. Private to
 * disk/.
 */
#pragma once

#include "disk/disk.h"

typedef struct FlFingerprint FlFingerprint;

FlFingerprint *fl_fingerprint_new(void);
FlFingerprint *fl_fingerprint_copy(const FlFingerprint *fingerprint);
void fl_fingerprint_free(FlFingerprint *fingerprint); /* NULL is fine */

/* Records a successful READ; only a sample of the reads is kept. */
void fl_fingerprint_note(FlFingerprint *fingerprint, const FlRead *read, const FlExportInfo *info);
/* Reads the samples again and compares. Blocks. FL_ERROR_CHANGED if they differ. */
bool fl_fingerprint_check(const FlFingerprint *fingerprint, FlConn *conn, const FlWait *wait,
                          GError **error);
