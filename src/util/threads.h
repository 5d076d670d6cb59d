/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For what the kernel keeps for each thread on its own. Private to util/. */
#pragma once

#include <stdbool.h>

/*
 * Calls FUNCTION(OPAQUE) in every thread there is, the calling one last; a thread that another
 * starts meanwhile is not missed. FUNCTION is called by a signal handler, SIGRTMIN, which nobody
 * else uses then. False if some thread could not be reached.
 */
bool fl_each_thread(void (*function)(void *opaque), void *opaque);
