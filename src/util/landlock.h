/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Landlock, https://docs.kernel.org/userspace-api/landlock.html. Private to util/. */
#pragma once

#include "util/sandbox.h"

/* Creates a ruleset that allows nothing yet. Returns a descriptor, or -1 if the kernel has no
 * Landlock. */
int fl_landlock_new(void);
void fl_landlock_allow(int ruleset, const char *path, FlSandboxAccess access);
/* Restricts the calling thread, which must have set PR_SET_NO_NEW_PRIVS. Async-signal-safe. */
void fl_landlock_restrict(int ruleset);
