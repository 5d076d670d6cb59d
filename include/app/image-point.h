/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Restore points in an image file, that of a VM that is shut off: the backup continues the chain as
 * an increment on the restore point of the bitmap. Pure.
 */
#pragma once

#include "mount/export.h"
#include "source/source.h"

/* Makes ORIGIN, of IMAGE, an increment if the image contains the restore point of a committed
 * backup of SERIES (NULL: "last"). */
void fl_image_point_choose(FlOrigin *origin, const FlExportInfo *image, const char *series);
