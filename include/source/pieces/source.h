/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "source/source.h"

/* The folder at PATH as a source with one export. It must contain all pieces of a disk and nothing
 * else. The label is the absolute path. */
FlSource *fl_source_pieces_new(const char *path, FlBudget *budget, GError **error);
