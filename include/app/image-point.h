/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Restore points in an image file, which is that of a VM that is shut off: what was written since
 * the last backup goes on with its chain, as an increment on the point that the bitmap belongs to.
 * Pure.
 */
#pragma once

#include "mount/export.h"
#include "source/source.h"

/* Makes ORIGIN, of an IMAGE, an increment if the image has the restore point of a
 * committed backup of SERIES (NULL: "last"). */
void fl_image_point_choose(FlOrigin *origin, const FlExportInfo *image, const char *series);
