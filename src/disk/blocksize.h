/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads that a server would refuse as they are: off its block size, or too long. Private to disk/.
 */
#pragma once

#include "disk/disk.h"

bool fl_read_is_unaligned(const FlRead *read, const FlExportInfo *info);
/* Reads whole blocks in lengths that the server takes, by READ_PART(DISK, part), and copies out
 * what was asked for. False if there is no memory for that. */
bool fl_read_unaligned(FlRead *read, const FlExportInfo *info,
                       void (*read_part)(FlDisk *disk, FlRead *part), FlDisk *disk);
