/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A clock for the times of pieces that never goes back, whatever happens to the host's clock.
 *
 * A time that was shown once must not be shown again for other contents: a tool that saw the first
 * would skip the second. Nor may it be older than the last run of a tool that compares with its own
 * start time (tar -g). So a small file per source in the state directory stores the last second
 * shown and the end of the last mount.
 */
#pragma once

#include "util/error.h"

/*
 * Advances *SECOND (since 1970), the point in time of STATE of the disks of SOURCE, past FLOOR,
 * past the time shown for any other state, and past the end of earlier mounts. The same STATE (any
 * line of text) keeps its second. NOW is the host's clock. Returns true if the result survives a
 * crash of the host; false with an error if *SECOND is valid but may be unknown to the next call.
 */
bool fl_piece_clock_next(const char *source, const char *state, gint64 floor, gint64 now,
                         gint64 *second, GError **error);
/* Records that a mount of SOURCE ends at NOW. */
bool fl_piece_clock_end(const char *source, gint64 now, GError **error);
/* Removes the file. */
void fl_piece_clock_forget(const char *source);
