/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Callbacks that wait for a result of a disk, and are called once. Call from the loop only. */
#pragma once

#include "util/error.h"

typedef struct FlDisk FlDisk;

/* RESULT is 0 or -errno. */
typedef void (*FlDiskLoaded)(FlDisk *disk, errint_t result, void *opaque);

typedef struct FlWaiters FlWaiters;

FlWaiters *fl_waiters_new(void);
void fl_waiters_free(FlWaiters *waiters); /* calls no callback; NULL is fine */

void fl_waiters_add(FlWaiters *waiters, FlDiskLoaded done, void *opaque);
bool fl_waiters_any(const FlWaiters *waiters);
/* Removes all waiters and calls them with RESULT; a callback may add a waiter again. */
void fl_waiters_tell(FlWaiters *waiters, FlDisk *disk, errint_t result);
