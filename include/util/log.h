/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Logging is GLib's: g_debug, g_info, g_message, g_warning. This sets where it goes.
 *
 * Low layers log with g_debug only; who handles an error logs it once.
 */
#pragma once

#include <glib.h>

/*
 * Messages at LEVEL and worse go to the journal when stderr is the journal, else to stderr as
 * "fleecefs: text". Call once, before any thread starts.
 */
void fl_log_init(GLogLevelFlags level);
