/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "source/image/image.h"
#include "source/source.h"

/* An image file as a source, served by fl_image_daemon_new(). Its only export has the format, times
 * and bitmaps of the image. */
FlSource *fl_source_image_new(const char *path, const char *format, const char *label,
                              FlBudget *budget, GError **error);

/* Adds what NBD does not report about an image to INFO of its export. */
void fl_source_image_add_facts(FlExportInfo *info, const FlImageInfo *image);
