/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Logging is GLib's: g_debug, g_info, g_message, g_warning. This sets where it goes.
 *
 * Low layers log with g_debug only; who handles an error logs it once.
 */
#pragma once

#include <glib.h>

/*
 * Messages at LEVEL and worse go to stderr as "fleecefs: text"; where that is the journal, as
 * "<priority>text" (sd-daemon(3)), and the journal knows whose they are. What servers and VMs call
 * their things is made printable. Call once, before any thread starts.
 */
void fl_log_init(GLogLevelFlags level);

/* Connects to syslog(3), for later: the sandbox lets nobody make a Unix socket. */
void fl_log_open_syslog(void);
/* From now on they go to syslog(3), which is the journal where systemd runs: there is no stderr in
 * the background. */
void fl_log_to_syslog(void);
