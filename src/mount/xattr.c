/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Extended attributes of files. */
#include "call.h"

#include <errno.h>
#include <string.h>

#define XATTR_PREFIX "user.fleecefs."

static GHashTable *xattrs_of(const FlNode *node)
{
    return fl_node_is_piece(node) ? fl_split_xattrs(node->split, node->piece)
                                  : fl_file_xattrs(node->file);
}

static void reply_bytes(fuse_req_t req, const char *bytes, size_t length, size_t size)
{
    if (size == 0)
        fuse_reply_xattr(req, length);
    else if (size < length)
        fuse_reply_err(req, ERANGE);
    else
        fuse_reply_buf(req, bytes, length);
}

static void run_getxattr(FlCall *call, bool loaded)
{
    g_autoptr(GHashTable) xattrs = NULL;
    const char *value;

    if (!loaded) {
        fuse_reply_err(call->req, EIO);
        return;
    }
    xattrs = xattrs_of(call->node);
    value = g_hash_table_lookup(xattrs, call->name + strlen(XATTR_PREFIX));
    if (value == NULL)
        fuse_reply_err(call->req, ENODATA);
    else
        reply_bytes(call->req, value, strlen(value), call->xattr.size);
}

void fl_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    FlCall call = {.ops = fl_ops_of(req), .req = req, .run = run_getxattr, .xattr.size = size};

    call.name = (char *)name;
    if (!fl_call_find(&call, ino))
        return;
    if (!fl_call_is_file(call.node) || !g_str_has_prefix(name, XATTR_PREFIX))
        fuse_reply_err(req, ENODATA);
    else
        fl_call_run(&call, fl_call_needs(call.node));
}

static void run_listxattr(FlCall *call, bool loaded)
{
    g_autoptr(GString) names = g_string_new(NULL);

    if (!loaded) {
        fuse_reply_err(call->req, EIO);
        return;
    }
    if (fl_call_is_file(call->node)) {
        g_autoptr(GHashTable) xattrs = xattrs_of(call->node);
        g_autoptr(GList) keys = g_list_sort(g_hash_table_get_keys(xattrs), (GCompareFunc)strcmp);
        for (GList *l = keys; l != NULL; l = l->next) {
            g_string_append_printf(names, XATTR_PREFIX "%s", (char *)l->data);
            g_string_append_c(names, '\0');
        }
    }
    reply_bytes(call->req, names->str, names->len, call->xattr.size);
}

void fl_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    FlCall call = {.ops = fl_ops_of(req), .req = req, .run = run_listxattr, .xattr.size = size};

    if (fl_call_find(&call, ino))
        fl_call_run(&call, fl_call_needs(call.node));
}
