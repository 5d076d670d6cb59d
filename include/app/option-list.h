/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Option lists in the format of -o and fstab. Pure. */
#pragma once

#include <stdbool.h>

/* Splits LIST at commas and drops empty parts; the result is as of g_strsplit(). As in FUSE, a
 * backslash escapes a comma or a backslash, and a backslash with three octal digits is a byte. */
char **fl_option_list_split(const char *list);

/* Whether OPTION, "NAME" or "NAME=VALUE", is passed on to FUSE (options that would make the tree
 * writable are not), or is one that mount(8) and fstab add and that we ignore. */
bool fl_option_is_for_fuse(const char *option);
bool fl_option_is_for_mount(const char *option);
