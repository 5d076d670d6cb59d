/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who waits for the maps of a disk. Private to disk/. */
#pragma once

#include "disk/disk.h"

typedef struct FlWaiters FlWaiters;

FlWaiters *fl_waiters_new(void);
void fl_waiters_free(FlWaiters *waiters);
void fl_waiters_add(FlWaiters *waiters, FlDiskLoaded done, void *opaque);
bool fl_waiters_any(const FlWaiters *waiters);
/* Tells RESULT to all, who wait no more; one that is told may wait again. */
void fl_waiters_tell(FlWaiters *waiters, FlDisk *disk, errint_t result);
