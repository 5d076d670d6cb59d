/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who waits for something about a disk that is on its way, and is told once. Belongs to the loop.
 */
#pragma once

#include "util/error.h"

typedef struct FlDisk FlDisk;

/* RESULT is 0 or -errno. */
typedef void (*FlDiskLoaded)(FlDisk *disk, errint_t result, void *opaque);

typedef struct FlWaiters FlWaiters;

FlWaiters *fl_waiters_new(void);
void fl_waiters_free(FlWaiters *waiters); /* tells nobody; NULL is fine */

void fl_waiters_add(FlWaiters *waiters, FlDiskLoaded done, void *opaque);
bool fl_waiters_any(const FlWaiters *waiters);
/* Tells RESULT to all, who wait no more; one that is told may wait again. */
void fl_waiters_tell(FlWaiters *waiters, FlDisk *disk, errint_t result);
