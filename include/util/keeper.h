/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A helper process that keeps the rights the daemon gives up.
 *
 * The daemon parses untrusted data and is sandboxed. What still needs the user's rights is done by
 * a second process, which never reads such data and is told beforehand what it may do: unmount this
 * one mount, remove this one pid file, and connect to a fixed list of Unix sockets. A request is a
 * single byte. The keeper exits when the daemon does.
 */
#pragma once

#include "util/mountpoint.h"

typedef struct {
    const FlMountpoint *mountpoint;
    const char *pidfile; /* absolute; removed only while it contains our process id; NULL: none */
    /* Paths of Unix sockets, at most 255, NULL-terminated. "/proc/self/fd/N" stands for an O_PATH
     * descriptor, which must stay open. */
    char **sockets;
} FlKeeperSpec;

typedef struct FlKeeper FlKeeper;

/* Call before giving up rights. From now on fl_unix_connect() goes through the keeper. */
FlKeeper *fl_keeper_start(const FlKeeperSpec *spec, GError **error);

/* Unmounts lazily and waits a few seconds at most for it to finish. Returns false if something else
 * is mounted there or on failure. */
bool fl_keeper_unmount(FlKeeper *keeper);
void fl_keeper_remove_pidfile(FlKeeper *keeper);
/* No thread may call fl_unix_connect() after this. NULL is fine. */
void fl_keeper_free(FlKeeper *keeper);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlKeeper, fl_keeper_free)

/*
 * Returns a non-blocking stream socket connected to PATH, or -1 with errno. Connects directly or,
 * once a keeper runs, through it, and then only to sockets on its list. Thread-safe.
 */
int fl_unix_connect(const char *path);
