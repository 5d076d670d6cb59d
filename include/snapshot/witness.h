/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Witnesses of what a disk held: checksums of some of it, noted with a restore point of which
 * nothing but its bitmap is in the image. What the bitmap says to be as it was then must be so. It
 * is not where the disk was made smaller and larger again, its content was exchanged in place, or
 * the bitmap was cleared.
 *
 * Of a disk of up to FL_WITNESS_MOST granules all are witnesses. Of a larger one those are that had
 * data, more of them the nearer the end is, which is what a disk that is made smaller loses.
 *
 * A witness is text: "INDEX:CHECKSUM,...", both hexadecimal. Blocks; for whoever sets up.
 */
#pragma once

#include "source/source.h"

#define FL_WITNESS_GRANULE (UINT64_C(64) << 10)
#define FL_WITNESS_MOST    64u

/* What is on the disk INFO; NULL with an error. */
char *fl_witness_take(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                      GError **error);
/* Whether all of WITNESS is as it was where the bitmap CONTEXT is clean: false with
 * FL_ERROR_CHANGED, or with another error if that cannot be told. */
bool fl_witness_check(FlSource *source, const FlExportInfo *info, const char *witness,
                      const char *context, const FlWait *wait, GError **error);
