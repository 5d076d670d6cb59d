/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mounted tree: the FUSE session and the loop that serves it.
 *
 * One thread runs the default main context: it reads requests from /dev/fuse, polls the connections
 * and answers. Nothing it does blocks, so one slow export does not hold up another, and a read
 * needs no hand-over between threads.
 */
#pragma once

#include "mount/control.h"
#include "mount/tree.h"
#include "util/keeper.h"

typedef struct {
    const char *mountpoint;
    const char *fsname;  /* what mount(8) shows as the source */
    char **fuse_options; /* further -o options for FUSE; NULL-terminated, may be NULL */
    uid_t uid;           /* who owns all files */
    gid_t gid;
    bool debug;
    const char *pidfile; /* as in FlKeeperSpec, as is SOCKETS; NULL: none */
    char **sockets;
    const FlControl *control; /* outlives the session; NULL: there is nothing to command */
} FlSessionOptions;

typedef struct FlSession FlSession;

/* Mounts TREE, which is not taken over. */
FlSession *fl_session_new(FlTree *tree, const FlSessionOptions *options, GError **error);
/* Removes the pid file. */
void fl_session_remove_pidfile(FlSession *session);
/* Unmounts unless that was done from outside. Requests that are under way may still be answered. */
void fl_session_unmount(FlSession *session);
/* Unmounts as well. No request is under way any more. NULL is fine. */
void fl_session_free(FlSession *session);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSession, fl_session_free)

/* Serves until unmounted or fl_session_quit(). READY is called once the tree answers. */
void fl_session_run(FlSession *session, void (*ready)(void *opaque), void *opaque);
/* From the loop. */
void fl_session_quit(FlSession *session);
