/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of stored backups, which are read before QEMU is given them: nothing in them is
 * trusted, and one that was cut off would read as zeros at its end.
 */
#pragma once

#include "map/map.h"

/* Opens the regular file at PATH, which is no symbolic link, to be read; -1 with an error. */
int fl_stored_open(const char *path, GError **error);

/*
 * Whether the file behind FD is a qcow2 (QEMU's docs/interop/qcow2, versions 2 and 3) of a disk of
 * SIZE bytes as backups are: without data in another file, not encrypted, with a backing file only
 * if it is an increment (BASED), and with all clusters that its tables name inside the file.
 */
bool fl_stored_check_qcow2(int fd, uint64_t size, bool based, GError **error);

/*
 * The mapfile of GNU ddrescue (its manual, "Mapfile structure") that TEXT is, which must cover SIZE
 * bytes: FL_DIRTY where it says finished ('+'). To be unreferenced.
 */
FlMap *fl_mapfile_parse(const char *text, gsize length, uint64_t size, GError **error);

/*
 * Writes to FD, an empty file, the tables of a qcow2 that shows what is dirty in MAP from a raw
 * file of the same offsets, to be opened with that as its data-file, and the rest from whatever it
 * is put on. Nobody may write to it: nothing in it is counted.
 */
bool fl_overlay_write(int fd, const FlMap *map, GError **error);
