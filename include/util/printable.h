/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Makes foreign text safe to display: names and messages of servers, VMs and disks. */
#pragma once

/*
 * Returns TEXT as one line of valid UTF-8 without terminal escapes or bidirectional controls: white
 * space becomes a space; control and format characters and invalid sequences become '?'. Free with
 * g_free().
 */
char *fl_printable(const char *text);
