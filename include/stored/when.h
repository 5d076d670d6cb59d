/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parses times in the form people write them. Pure. */
#pragma once

#include <glib.h>

/*
 * Returns the end of the day, minute or second that WHEN names, in the time zone of NOW unless WHEN
 * has its own. Accepts now, today, yesterday, weekdays (the most recent such day, including today),
 * "N minutes ago" (hours, days, weeks), and ISO 8601 dates and times, separated by a space or a T;
 * seconds, time and zone are optional, and a word for a day may replace the date. NULL if WHEN is
 * none of these. contrib/fleecefs_backups/text.py accepts the same.
 */
GDateTime *fl_when_end(const char *when, GDateTime *now);
