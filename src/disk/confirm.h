/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Data received from a disk's server and not confirmed yet: see fl_disk_set_confirm(). Call from
 * the loop only. Private to disk/. */
#pragma once

#include "disk/disk.h"

typedef struct FlConfirm FlConfirm;

/* TIMEOUT in seconds. */
FlConfirm *fl_confirm_new(const FlDiskConfirmOps *ops, unsigned timeout);
void fl_confirm_free(FlConfirm *confirm); /* must hold nothing; NULL is fine */

/* Whether arriving data must be held; false if CONFIRM is NULL. */
bool fl_confirm_is_needed(const FlConfirm *confirm);
/* Holds READ, which has completed, and requests confirmation. */
void fl_confirm_hold(FlConfirm *confirm, FlRead *read);
/* The same for what is not a read: DONE gets 0, or -EIO if it is not confirmed in time. */
void fl_confirm_query(FlConfirm *confirm, void (*done)(errint_t result, void *opaque),
                      void *opaque);
/* Completes the reads numbered up to NUMBER with RESULT. */
void fl_confirm_end(FlConfirm *confirm, uint64_t number, errint_t result);
/* Moves all held reads to LEFT. */
void fl_confirm_give_up(FlConfirm *confirm, GQueue *left);
