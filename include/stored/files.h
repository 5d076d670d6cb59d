/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files of stored backups, validated before QEMU opens them: their contents are not trusted, and a
 * truncated image would read as zeros at its end.
 */
#pragma once

#include "map/map.h"

/* Opens the regular file at PATH for reading, not following a symbolic link; -1 with an error. */
int fl_stored_open(const char *path, GError **error);

/*
 * Checks that FD is a qcow2 (QEMU's docs/interop/qcow2, versions 2 and 3) of a disk of SIZE bytes
 * in the form that backups have: no external data file, not encrypted, a backing file only in an
 * increment (BASED), and all clusters referenced by its tables within the file.
 */
bool fl_stored_check_qcow2(int fd, uint64_t size, bool based, GError **error);

/*
 * Parses TEXT as a mapfile of GNU ddrescue (its manual, "Mapfile structure"), which must cover SIZE
 * bytes. Finished ranges ('+') are FL_DIRTY. The caller unrefs the map.
 */
FlMap *fl_mapfile_parse(const char *text, gsize length, uint64_t size, GError **error);

/*
 * Writes to FD, an empty file, the metadata of a qcow2 that takes the dirty ranges of MAP from a
 * raw file at the same offsets, and everything else from its backing file. Open it with the raw
 * file as its data-file, and read-only: its refcounts are not valid.
 */
bool fl_overlay_write(int fd, const FlMap *map, GError **error);
