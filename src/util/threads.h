/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For attributes that the kernel keeps per thread. Private to util/. */
#pragma once

#include <stdbool.h>

/*
 * Calls FUNCTION(OPAQUE) in every thread, including those started meanwhile; in the calling thread
 * last. FUNCTION runs in a handler of SIGRTMIN, which must not be in use otherwise. False if a
 * thread could not be reached.
 */
bool fl_each_thread(void (*function)(void *opaque), void *opaque);
