/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files of fixed bytes. */
#pragma once

#include "view/view.h"

/* BYTES as they are; a reference is kept. */
FlView *fl_view_bytes_new(GBytes *bytes);
