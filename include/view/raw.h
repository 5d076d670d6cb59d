/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Raw images: the whole disk, a part of it, or only what is dirty. */
#pragma once

#include "view/view.h"

/*
 * [START, START + LENGTH) of a disk of SIZE bytes. Without DIRTY the file's holes are the ranges
 * that ALLOC says read as zeros (all is data if ALLOC is NULL). With DIRTY, data is exactly what is
 * dirty; what of it reads as zeros is data as well, made of zeros without asking the server.
 */
FlView *fl_view_raw_new(FlMap *alloc, FlMap *dirty, uint64_t size, uint64_t start, uint64_t length);
