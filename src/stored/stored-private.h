/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "stored/stored.h"

/* order.c. Groups images by VM, finds the bases of increments, and sorts all images. */
void fl_stored_resolve(FlStored *stored);
