/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Landlock, https://docs.kernel.org/userspace-api/landlock.html. Private to util/. */
#pragma once

#include "util/sandbox.h"

/* A ruleset that allows nothing yet; a descriptor, or -1 where the kernel has no Landlock. */
int fl_landlock_new(void);
void fl_landlock_allow(int ruleset, const char *path, FlSandboxAccess access);
/* Only system calls, for the calling thread. It must have given up new privileges. */
void fl_landlock_restrict(int ruleset);
