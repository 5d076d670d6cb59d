/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The FUSE operations on a tree. Private to mount/. */
#pragma once

#include "mount/session.h"

typedef struct FlOps FlOps;

/* Creates the user data of a session with OPTIONS that uses fl_fuse_ops. TREE and OPTIONS->control
 * must outlive it. */
FlOps *fl_ops_new(FlTree *tree, const FlSessionOptions *options);
void fl_ops_free(FlOps *ops); /* NULL is fine */

extern const struct fuse_lowlevel_ops fl_fuse_ops;
