/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "call.h"

#include <errno.h>
#include <string.h>
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

static bool is_known(const FlOps *ops, unsigned cmd, size_t in_size, size_t out_size)
{
    switch (cmd) {
    case FL_CONTROL_COMMIT:
    case FL_CONTROL_ABORT:
        return ops->control != NULL && in_size == sizeof(FlControlMessage) &&
               out_size == sizeof(FlControlMessage);
    case FL_CONTROL_RATE:
        return ops->throttle != NULL && in_size == sizeof(uint64_t);
    default:
        return false;
    }
}

void fl_op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
                 unsigned flags, const void *in, size_t in_size, size_t out_size)
{
    const FlOps *ops = fl_ops_of(req);
    FlNode piece;
    const FlNode *node = fl_tree_find(ops->tree, ino, &piece);
    uid_t caller = fuse_req_ctx(req)->uid;
    FlControlCall *call;

    if (node == NULL || node->make_text == NULL || !is_known(ops, cmd, in_size, out_size)) {
        fuse_reply_err(req, ENOTTY);
        return;
    }
    if (caller != 0 && caller != getuid()) {
        fuse_reply_err(req, EPERM);
        return;
    }
    if (cmd == FL_CONTROL_RATE) {
        uint64_t rate;

        memcpy(&rate, in, sizeof rate);
        fl_throttle_set(ops->throttle, MIN(rate, INT64_MAX), g_get_monotonic_time());
        fuse_reply_ioctl(req, 0, NULL, 0);
        return;
    }
    call = g_new(FlControlCall, 1);
    call->req = req;
    ops->control->run(call, cmd == FL_CONTROL_COMMIT, ((const FlControlMessage *)in)->force != 0,
                      ops->control->opaque);
}
