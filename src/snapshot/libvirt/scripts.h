/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The scripts that run on another host (util/ssh.h). remote.c calls them. */
#pragma once

enum {
    FL_SCRIPT_SOCKET,
    FL_SCRIPT_WHY,
    FL_SCRIPT_MAKE,
    FL_SCRIPT_REMOVE,
    FL_SCRIPT_ROOM,
    FL_SCRIPT_FACTS,
    FL_SCRIPT_CLIENTS,
    FL_SCRIPT_LOOK,
    FL_SCRIPT_SERVE,
    FL_SCRIPT_READY,
    FL_SCRIPT_KEEP,
    FL_SCRIPT_END,
    FL_SCRIPT_RELAY,
    FL_N_SCRIPTS
};

/* NULL-terminated. */
extern const char *const fl_remote_scripts[];
