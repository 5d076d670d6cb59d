/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fleecefs --forget: removes all that backups have left in a VM or an image. */
#pragma once

#include "app/options.h"

/* Says on stdout what it has removed; the exit status. */
int fl_forget(const FlOptions *options);
