/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Text maps: changed extents reported by another tool, shown as an additional dirty bitmap of the
 * disk (-o map=NAME:FILE).
 *
 * Formats, detected from their first bytes: nbdinfo --map, as lines or --json; GNU ddrescue
 * mapfiles; rbd diff --format json; the XML of thin_delta; and our own .map, .ddrescue and .json
 * files. Parsing is strict: extents must be in order, lie on the disk and, if the format describes
 * the whole disk, cover it. So a map of another disk or a truncated one is an error, not an
 * incomplete backup.
 */
#pragma once

#include "source/source.h"

/* Limit of a text map, in bytes. */
#define FL_TEXTMAP_MAX (UINT64_C(1) << 30)

/* Parses TEXT, of LENGTH bytes, into a map (FL_DIRTY) of a disk of SIZE bytes. Errors name FILE and
 * the line. */
FlMap *fl_textmap_parse(const char *text, size_t length, uint64_t size, const char *file,
                        GError **error);
