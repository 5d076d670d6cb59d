/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a disk's server sent and nobody has vouched for yet: see fl_disk_set_voucher(). Belongs to
 * the loop. Private to disk/. */
#pragma once

#include "disk/disk.h"

typedef struct FlVoucher FlVoucher;

/* TIMEOUT in seconds. */
FlVoucher *fl_voucher_new(FlDiskAsk ask, void *opaque, unsigned timeout);
void fl_voucher_free(FlVoucher *voucher); /* holds nothing any more; NULL is fine */

/* Keeps READ, which has been answered, and asks about it. */
void fl_voucher_hold(FlVoucher *voucher, FlRead *read);
/* Ends with RESULT what was asked about up to NUMBER. */
void fl_voucher_end(FlVoucher *voucher, uint64_t number, errint_t result);
/* Moves all that is held to LEFT, by the links of the reads. */
void fl_voucher_give_up(FlVoucher *voucher, GQueue *left);
