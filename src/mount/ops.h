/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The FUSE operations on a tree. Private to mount/. */
#pragma once

#include "mount/control.h"
#include "mount/tree.h"

typedef struct FlOps FlOps;

/* The user data of a session whose operations are fl_fuse_ops. TREE and CONTROL outlive it. */
FlOps *fl_ops_new(FlTree *tree, uid_t uid, gid_t gid, const FlControl *control);
void fl_ops_free(FlOps *ops); /* NULL is fine */

extern const struct fuse_lowlevel_ops fl_fuse_ops;
