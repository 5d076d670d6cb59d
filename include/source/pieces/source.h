/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "source/source.h"

/* The folder at PATH, which has to hold all pieces of a disk and nothing else, as a source of one
 * export. Its label is the path, made absolute. */
FlSource *fl_source_pieces_new(const char *path, FlBudget *budget, GError **error);
