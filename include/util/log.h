/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Logging is GLib's: g_debug, g_info, g_message, g_warning. This file sets where messages go.
 *
 * Low layers log with g_debug only; the code that handles an error logs it once.
 */
#pragma once

#include <glib.h>

/*
 * Messages at LEVEL and above go to stderr as "fleecefs: text" or, if stderr is the journal, as
 * "<priority>text" (sd-daemon(3)), since the journal adds the program's name. Names that come from
 * servers and VMs are made printable. Call once, before any thread starts.
 */
void fl_log_init(GLogLevelFlags level);

/* Connects to syslog(3) early, since the sandbox forbids creating Unix sockets. */
void fl_log_open_syslog(void);
/* From now on messages go to syslog(3) (the journal on systemd): a background daemon has no stderr.
 */
void fl_log_to_syslog(void);
