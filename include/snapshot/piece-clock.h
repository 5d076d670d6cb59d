/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A clock for the times of pieces that only goes forward, whatever becomes of the host's.
 *
 * A time that was shown once must not come again on other contents: a tool that was there the first
 * time would skip them. Nor may it lie before the last run of a tool that compares with its own
 * start (tar -g). So one small file of each source in the state directory keeps the last second
 * that was shown, and up to when a mount lasted.
 */
#pragma once

#include "util/error.h"

/*
 * Moves *SECOND (since 1970), the point in time of STATE of the disks of SOURCE, to where it is
 * later than FLOOR, than what was shown of any other state, and than the end of earlier mounts. The
 * same STATE (any line of text) keeps its second. NOW is the host's clock. True: it survives a
 * crash of the host. False with an error: *SECOND counts, but the next call may not know of it.
 */
bool fl_piece_clock_next(const char *source, const char *state, gint64 floor, gint64 now,
                         gint64 *second, GError **error);
/* A mount of SOURCE ends at NOW. */
bool fl_piece_clock_end(const char *source, gint64 now, GError **error);
/* Removes the file. */
void fl_piece_clock_forget(const char *source);
