/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fleecefs --forget: removes everything that backups have left in a VM or an image. */
#pragma once

#include "app/options.h"

/* Lists on stdout what it removed. Returns the exit status. */
int fl_forget(const FlOptions *options);
