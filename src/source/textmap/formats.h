/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The formats of text maps. Private to source/textmap/. Each adds to RANGES what TEXT, LENGTH
 * bytes, says has changed; false with the error of RANGES set. */
#pragma once

#include "ranges.h"

#include <stddef.h>

/* Lines "OFFSET LENGTH TYPE DESCRIPTION" about the whole disk, as nbdinfo --map prints them
 * (nbdinfo(1)) and our own .map files are: of a dirty bitmap. */
bool fl_textmap_lines(FlRanges *ranges, const char *text, size_t length);

/* GNU ddrescue's mapfile ("Mapfile structure" in its manual) about the whole disk: what is finished
 * ('+') has changed, as in a domain mapfile. */
bool fl_textmap_ddrescue(FlRanges *ranges, const char *text, size_t length);

/*
 * An array of objects, all of one kind:
 * - {"offset", "length", "type"} about the whole disk, as nbdinfo --map --json prints them;
 * - {"start", "length", "dirty"} about the whole disk, as oVirt's imageio and our own .json files;
 * - {"offset", "length", "exists": "true" or "false"}, only what has changed, as rbd diff --format
 *   json prints them (rbd(8)).
 */
bool fl_textmap_json(FlRanges *ranges, const char *text, size_t length);

/* XML as thin_delta(8) prints it, with --verbose or without: <diff> with <same>, <different>,
 * <left_only> and <right_only>, in blocks of the pool. */
bool fl_textmap_thin(FlRanges *ranges, const char *text, size_t length);
