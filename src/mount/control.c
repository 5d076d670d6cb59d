/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "call.h"

#include <errno.h>
#include <unistd.h>

struct FlControlCall {
    fuse_req_t req;
};

void fl_control_reply(FlControlCall *call, int status, const char *text)
{
    FlControlMessage message = {.status = status};

    if (text != NULL)
        g_strlcpy(message.text, text, sizeof message.text);
    fuse_reply_ioctl(call->req, 0, &message, sizeof message);
    g_free(call);
}

void fl_op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
                 unsigned flags, const void *in, size_t in_size, size_t out_size)
{
    const FlOps *ops = fl_ops_of(req);
    FlNode piece;
    const FlNode *node = fl_tree_find(ops->tree, ino, &piece);
    uid_t caller = fuse_req_ctx(req)->uid;
    FlControlCall *call;

    if (node == NULL || node->make_text == NULL || ops->control == NULL ||
        (cmd != FL_CONTROL_COMMIT && cmd != FL_CONTROL_ABORT) ||
        in_size != sizeof(FlControlMessage) || out_size != sizeof(FlControlMessage)) {
        fuse_reply_err(req, ENOTTY);
        return;
    }
    if (caller != 0 && caller != getuid()) {
        fuse_reply_err(req, EPERM);
        return;
    }
    call = g_new(FlControlCall, 1);
    call->req = req;
    ops->control->run(call, cmd == FL_CONTROL_COMMIT, ((const FlControlMessage *)in)->force != 0,
                      ops->control->opaque);
}
