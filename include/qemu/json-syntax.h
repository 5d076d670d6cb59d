/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Strict JSON validation by RFC 8259.
 *
 * json-glib also accepts comments, other quotes and more than one value, and version 1.10 aborts on
 * the last. So data from a peer is validated here before json-glib parses it.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Whether TEXT is a single value, optionally surrounded by white space, with at most MAX_DEPTH
 * levels. Pure; allocates one byte per level. Does not check for valid UTF-8. */
bool fl_json_is_valid(const char *text, gsize length, unsigned max_depth);
