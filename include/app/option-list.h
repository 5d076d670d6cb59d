/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists of options as -o and fstab have them. Pure. */
#pragma once

/* The parts of LIST between its commas, without empty ones; a vector as of g_strsplit(). As for
 * FUSE, a backslash takes the next character, a comma or a backslash, as it is, and three octal
 * digits after one are a byte. */
char **fl_option_list_split(const char *list);
