/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists of options as -o and fstab have them. Pure. */
#pragma once

#include <stdbool.h>

/* The parts of LIST between its commas, without empty ones; a vector as of g_strsplit(). As for
 * FUSE, a backslash takes the next character, a comma or a backslash, as it is, and three octal
 * digits after one are a byte. */
char **fl_option_list_split(const char *list);

/* Whether OPTION, "NAME" or "NAME=VALUE", is one that is handed on to FUSE: none that would make
 * the tree writable; or one that mount(8) and fstab add, and that says nothing to us. */
bool fl_option_is_for_fuse(const char *option);
bool fl_option_is_for_mount(const char *option);
