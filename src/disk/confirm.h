/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a disk's server sent and nobody has vouched for yet: see fl_disk_set_confirm(). Belongs to
 * the loop. Private to disk/. */
#pragma once

#include "disk/disk.h"

typedef struct FlConfirm FlConfirm;

/* TIMEOUT in seconds. */
FlConfirm *fl_confirm_new(const FlDiskVouch *vouch, unsigned timeout);
void fl_confirm_free(FlConfirm *confirm); /* holds nothing any more; NULL is fine */

/* Whether what has arrived has to be held; not if CONFIRM is NULL. */
bool fl_confirm_is_needed(const FlConfirm *confirm);
/* Keeps READ, which has been answered, and asks about it. */
void fl_confirm_hold(FlConfirm *confirm, FlRead *read);
/* Ends with RESULT what was asked about up to NUMBER. */
void fl_confirm_end(FlConfirm *confirm, uint64_t number, errint_t result);
/* Moves all that is held to LEFT, by the links of the reads. */
void fl_confirm_give_up(FlConfirm *confirm, GQueue *left);
