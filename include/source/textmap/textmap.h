/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Text maps: what another tool says has changed on a disk, as one more dirty bitmap of it
 * (-o map=NAME:FILE).
 *
 * Formats, told apart by how they begin: nbdinfo --map, as lines or --json; a mapfile of GNU
 * ddrescue; rbd diff --format json; the XML of thin_delta; and our own .map, .ddrescue and .json
 * files. They are read strictly: extents are in order, lie on the disk and, where a format tells of
 * the whole disk, cover all of it, so that a text of another disk, or one that was cut off, is an
 * error and not a backup with something missing.
 */
#pragma once

#include "source/source.h"

/* Bytes of a text. */
#define FL_TEXTMAP_MAX (UINT64_C(1) << 30)

/* TEXT, of LENGTH bytes, as a map (FL_DIRTY) of a disk of SIZE bytes. FILE is its name in errors,
 * which name the line, too. */
FlMap *fl_textmap_parse(const char *text, size_t length, uint64_t size, const char *file,
                        GError **error);
