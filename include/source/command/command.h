/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command in [ brackets ]: an NBD server of the user's choice as a source. */
#pragma once

#include "source/server.h"

/* Runs ARGV (NULL-terminated) by systemd socket activation. It accepts connections when it likes,
 * so whether it could start shows when the first connection is tried. */
FlServer *fl_server_new_command(const char *const *argv, GError **error);
