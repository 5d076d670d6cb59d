/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Raw images: the whole disk, a part of it, or only its dirty ranges. */
#pragma once

#include "view/view.h"

/*
 * [START, START + LENGTH) of a disk of SIZE bytes. Without DIRTY, the holes of the file are the
 * ranges that read as zeros according to ALLOC (NULL: all is data). With DIRTY, data is exactly the
 * dirty ranges; those that read as zeros are data too, generated without a request to the server.
 */
FlView *fl_view_raw_new(FlMap *alloc, FlMap *dirty, uint64_t size, uint64_t start, uint64_t length);
