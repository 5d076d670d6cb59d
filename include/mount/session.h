/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mounted tree: the FUSE session and the loop that serves it.
 *
 * One thread runs the default main context: it reads requests from /dev/fuse, polls the connections
 * and replies. It never blocks, so a slow export does not delay the others, and a read is not
 * handed between threads.
 */
#pragma once

#include "mount/control.h"
#include "mount/tree.h"
#include "util/keeper.h"
#include "util/throttle.h"

typedef struct {
    const char *mountpoint;
    const char *fsname;  /* what mount(8) shows as the source */
    char **fuse_options; /* additional FUSE -o options; NULL-terminated, may be NULL */
    uid_t uid;           /* owner of all files */
    gid_t gid;
    bool debug;
    bool direct_io;      /* the kernel does not cache file contents */
    const char *pidfile; /* as in FlKeeperSpec, like SOCKETS; NULL: none */
    char **sockets;
    const FlControl *control; /* must outlive the session; NULL: no commands */
    FlThrottle *throttle;     /* of the disks; must outlive the session; NULL: no rate can be set */
} FlSessionOptions;

typedef struct FlSession FlSession;

/* Fails if FUSE_OPTIONS, NULL-terminated, need a permission that this user lacks. Call before
 * anything is set up for the mount. */
bool fl_session_check_options(char **fuse_options, GError **error);
/* Mounts TREE, which the caller keeps. */
FlSession *fl_session_new(FlTree *tree, const FlSessionOptions *options, GError **error);
/* Removes the pid file. */
void fl_session_remove_pidfile(FlSession *session);
/* Unmounts, unless already unmounted from outside. Pending requests may still be answered. */
void fl_session_unmount(FlSession *session);
/* Unmounts and frees. No request may be pending. NULL is fine. */
void fl_session_free(FlSession *session);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSession, fl_session_free)

/* Serves until unmounted or fl_session_quit(). READY is called once the tree is accessible. */
void fl_session_run(FlSession *session, void (*ready)(void *opaque), void *opaque);
/* Call from the loop. */
void fl_session_quit(FlSession *session);
