/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Foreign text that is shown to people: names and messages of servers, VMs and disks. */
#pragma once

/*
 * TEXT as one line of valid UTF-8 that neither commands a terminal nor changes the direction in
 * which it writes: white space becomes a space; control and format characters, and what is no
 * character, become '?'. To be freed with g_free().
 */
char *fl_printable(const char *text);
