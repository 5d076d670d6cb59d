/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fingerprints of a disk at a restore point: checksums of samples of its contents. They are stored
 * with a restore point for which the image holds only the bitmap. Later, samples that the bitmap
 * marks clean must have the same checksums. They differ if the disk was shrunk and grown again, if
 * its contents were replaced in place, or if the bitmap was cleared.
 *
 * A disk of up to FL_FINGERPRINT_MAX granules is sampled in full. On a larger disk, granules with
 * data are sampled, more of them towards the end, which is what shrinking discards.
 *
 * A fingerprint is text: "INDEX:CHECKSUM,...", both hexadecimal. All functions block.
 */
#pragma once

#include "source/source.h"

#define FL_FINGERPRINT_GRANULE (UINT64_C(64) << 10)
#define FL_FINGERPRINT_MAX     64u

/* Fingerprints the current contents of the disk INFO; NULL with an error. */
char *fl_point_fingerprint_take(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                                GError **error);
/* Checks that every sample of FINGERPRINT that is clean in the bitmap CONTEXT is unchanged. Returns
 * false with FL_ERROR_CHANGED, or with another error if this cannot be determined. */
bool fl_point_fingerprint_check(FlSource *source, const FlExportInfo *info, const char *fingerprint,
                                const char *context, const FlWait *wait, GError **error);
