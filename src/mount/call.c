/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "call.h"

#include <errno.h>

FlOps *fl_ops_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

bool fl_call_find(FlCall *call, fuse_ino_t ino)
{
    call->node = fl_tree_find(call->ops->tree, ino, &call->piece);
    if (call->node == NULL)
        fuse_reply_err(call->req, ENOENT);
    return call->node != NULL;
}

static void call_interrupted(fuse_req_t req, void *opaque)
{
    ((FlCall *)opaque)->req = NULL;
    fuse_reply_err(req, EINTR);
}

static void call_loaded(FlDisk *disk, errint_t result, void *opaque)
{
    FlCall *call = opaque;

    if (call->req != NULL) {
        fuse_req_interrupt_func(call->req, NULL, NULL);
        call->run(call, result == 0);
    }
    g_free(call->name);
    g_free(call);
}

static bool is_there(const FlExport *export, FlNeeds needs)
{
    switch (needs) {
    case FL_NEEDS_NOTHING:
        return true;
    case FL_NEEDS_MAPS:
        return fl_disk_maps(fl_export_disk(export)) != NULL;
    case FL_NEEDS_TABLE:
        return fl_export_is_complete(export);
    }
    return false;
}

void fl_call_run(const FlCall *call, FlNeeds needs)
{
    FlExport *export = call->node->export;
    FlCall *waiting;

    if (is_there(export, needs)) {
        FlCall now = *call;
        now.run(&now, true);
        return;
    }
    if (fuse_req_interrupted(call->req)) {
        fuse_reply_err(call->req, EINTR);
        return;
    }
    waiting = g_memdup2(call, sizeof *call);
    waiting->name = g_strdup(call->name);
    if (call->node == &call->piece)
        waiting->node = &waiting->piece;
    fuse_req_interrupt_func(call->req, call_interrupted, waiting);
    if (needs == FL_NEEDS_TABLE)
        fl_export_complete(export, call_loaded, waiting);
    else
        fl_disk_load(fl_export_disk(export), call_loaded, waiting);
}

bool fl_call_is_file(const FlNode *node)
{
    return node->file != NULL || fl_node_is_piece(node);
}

FlNeeds fl_call_needs(const FlNode *node)
{
    if (fl_node_is_piece(node))
        return FL_NEEDS_MAPS;
    if (node->file == NULL)
        return FL_NEEDS_NOTHING;
    return fl_file_is_newer(node->file) ? FL_NEEDS_TABLE : FL_NEEDS_MAPS;
}
