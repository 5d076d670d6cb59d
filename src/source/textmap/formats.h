/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The formats of text maps. Private to source/textmap/. Each function adds to RANGES what the
 * LENGTH bytes of TEXT mark as changed; returns false with the error of RANGES set. */
#pragma once

#include "ranges.h"

#include <stddef.h>

/* Lines "OFFSET LENGTH TYPE DESCRIPTION" that cover the whole disk, of a dirty bitmap: the output
 * of nbdinfo --map (nbdinfo(1)), and fleecefs's own .map files. */
bool fl_textmap_lines(FlRanges *ranges, const char *text, size_t length);

/* GNU ddrescue's mapfile ("Mapfile structure" in its manual), which covers the whole disk: finished
 * blocks ('+') have changed, as in a domain mapfile. */
bool fl_textmap_ddrescue(FlRanges *ranges, const char *text, size_t length);

/*
 * An array of objects, all of one kind:
 * - {"offset", "length", "type"}, covering the whole disk: nbdinfo --map --json;
 * - {"start", "length", "dirty"}, covering the whole disk: oVirt's imageio, fleecefs's .json files;
 * - {"offset", "length", "exists": "true" or "false"}, only what has changed: rbd diff --format
 *   json (rbd(8)).
 */
bool fl_textmap_json(FlRanges *ranges, const char *text, size_t length);

/* The XML output of thin_delta(8), with or without --verbose: <diff> with <same>, <different>,
 * <left_only> and <right_only>, in blocks of the pool. */
bool fl_textmap_thin(FlRanges *ranges, const char *text, size_t length);
