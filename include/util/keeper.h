/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process that keeps the rights which the daemon gives up.
 *
 * The daemon reads bytes that strangers sent, and is sandboxed. What still takes a right of its
 * user's is done by a second process that never reads any such byte and has been told beforehand
 * what it may do: unmount the one mount, remove the one pid file, and connect to Unix sockets of a
 * list. It is asked by one byte each. It ends when the daemon does.
 */
#pragma once

#include "util/mountpoint.h"

typedef struct {
    const FlMountpoint *mountpoint;
    const char *pidfile; /* absolute; removed only while it has our process id; NULL: none */
    /* Of char *, ended by NULL; at most 255: paths of Unix sockets, "/proc/self/fd/N" for a
     * descriptor (O_PATH) that is open and stays so. */
    char **sockets;
} FlKeeperSpec;

typedef struct FlKeeper FlKeeper;

/* Called before the rights are given up. From now on fl_unix_connect() goes through it. */
FlKeeper *fl_keeper_start(const FlKeeperSpec *spec, GError **error);

/* Unmounts, lazily, and waits until that is done, some seconds at most. False if something else is
 * mounted there, or it failed. */
bool fl_keeper_unmount(FlKeeper *keeper);
void fl_keeper_remove_pidfile(FlKeeper *keeper);
/* No thread may call fl_unix_connect() any more. NULL is fine. */
void fl_keeper_free(FlKeeper *keeper);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlKeeper, fl_keeper_free)

/*
 * A stream socket (non-blocking) that is connected to PATH, or -1 with errno: directly, or once
 * there is a keeper by way of it, for those that it was told of. Any thread.
 */
int fl_unix_connect(const char *path);
