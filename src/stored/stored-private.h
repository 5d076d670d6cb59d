/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "stored/stored.h"

/* order.c. Finds which images are of the same VM, what increments lie on, and the order of all. */
void fl_stored_resolve(FlStored *stored);
