/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources given as [ COMMAND ]: an NBD server started by the user's own command. */
#pragma once

#include "source/server.h"

/* Starts ARGV (NULL-terminated) with systemd socket activation. The server accepts connections in
 * its own time, so a failure to start shows only at the first connection. */
FlServer *fl_server_new_command(const char *const *argv, GError **error);
