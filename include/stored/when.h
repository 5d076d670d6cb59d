/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Times as people write them. Pure. */
#pragma once

#include <glib.h>

/*
 * The moment until which something counts as WHEN: the end of the day, minute or second that it
 * names, in the time zone of NOW unless it says another. Known are now, today, yesterday, the days
 * of the week (the last such day, today included), "N minutes ago" (hours, days, weeks), and dates
 * and times by ISO 8601, with a space or a T between and the seconds, the time and the zone left
 * out at will; a word for a day stands for its date. NULL if WHEN is none of these.
 * contrib/fleecefs_backups/text.py knows the same.
 */
GDateTime *fl_when_end(const char *when, GDateTime *now);
