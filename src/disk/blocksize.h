/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads that the server would reject: unaligned to its block size, or too long. Private to disk/.
 */
#pragma once

#include "disk/disk.h"

bool fl_read_is_unaligned(const FlRead *read, const FlExportInfo *info);
/* Reads whole blocks, in lengths that the server accepts, through READ_PART(DISK, part), and copies
 * the requested bytes to READ. False if out of memory. */
bool fl_read_unaligned(FlRead *read, const FlExportInfo *info,
                       void (*read_part)(FlDisk *disk, FlRead *part), FlDisk *disk);
