/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether a text is JSON, by the letter of RFC 8259.
 *
 * json-glib also takes comments, other quotes and more than one value, and one of its versions
 * (1.10) aborts over the last. So what a peer sent is looked at here before json-glib sees it.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Whether TEXT is one value, with white space around it, of at most MAX_DEPTH levels. Pure; takes
 * a byte of memory for each level. That the text is UTF-8 is not looked at. */
bool fl_json_is_valid(const char *text, gsize length, unsigned max_depth);
