/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files with fixed contents. */
#pragma once

#include "view/view.h"

/* A file that contains BYTES; takes a reference. */
FlView *fl_view_bytes_new(GBytes *bytes);
