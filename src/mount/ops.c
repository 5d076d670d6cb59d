/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "call.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Cache timeout for the kernel in seconds: attributes and entries never change. */
#define FOREVER    1e7
#define BLOCK_SIZE (64 << 10)

/* The max_read value in OPTIONS: libfuse requires the same value when the session starts. */
static unsigned max_read_in(char **options)
{
    unsigned max_read = 0;

    for (char **o = options; o != NULL && *o != NULL; o++)
        sscanf(*o, "max_read=%u", &max_read);
    return max_read;
}

FlOps *fl_ops_new(FlTree *tree, const FlSessionOptions *options)
{
    FlOps *ops = g_new0(FlOps, 1);

    ops->tree = tree;
    ops->uid = options->uid;
    ops->gid = options->gid;
    ops->direct_io = options->direct_io;
    ops->max_read = max_read_in(options->fuse_options);
    ops->control = options->control;
    ops->throttle = options->throttle;
    clock_gettime(CLOCK_REALTIME, &ops->mounted);
    return ops;
}

void fl_ops_free(FlOps *ops)
{
    if (ops == NULL)
        return;
    /* The kernel does not wait for pending RELEASE requests when it unmounts. */
    fl_texts_clear(&ops->texts);
    g_free(ops);
}

/* Whether NODE is the folder of an export, which gets files when it is complete. */
static bool is_export(const FlNode *node)
{
    return fl_node_is_folder(node) && node->export != NULL && node->parent->export == NULL;
}

/* Whether NAME may be one of the files added then. */
static bool may_come(const char *name)
{
    return g_str_has_prefix(name, "part") || g_str_equal(name, "lv");
}

/* The view of a file whose maps are loaded; the caller unrefs it. NULL if it cannot be created. */
static FlView *view_of(const FlNode *node)
{
    const FlView *view;

    if (fl_node_is_piece(node))
        return fl_split_view(node->split, node->piece);
    view = fl_file_view(node->file);
    return view != NULL ? fl_view_ref((FlView *)view) : NULL;
}

/* Attributes */

static errint_t fill_attributes(const FlOps *ops, const FlNode *node, struct stat *st)
{
    *st = (struct stat){.st_ino = node->ino, .st_uid = ops->uid, .st_gid = ops->gid};
    st->st_blksize = BLOCK_SIZE;
    st->st_mtim = st->st_ctim = ops->mounted;

    if (fl_node_is_folder(node)) {
        st->st_mode = S_IFDIR | 0555;
        st->st_nlink = 2 + fl_node_subfolders(node);
    } else if (fl_call_is_file(node)) {
        g_autoptr(FlView) view = view_of(node);
        if (view == NULL)
            return -EIO;
        st->st_mode = S_IFREG | 0444;
        st->st_nlink = 1;
        st->st_size = (off_t)view->size;
        st->st_blocks = (blkcnt_t)(view->data_bytes / 512 + (view->data_bytes % 512 != 0));
    } else {
        size_t size;
        fl_texts_attributes(&ops->texts, node, &size, &st->st_mtim);
        st->st_mode = S_IFREG | 0444;
        st->st_nlink = 1;
        st->st_size = (off_t)size;
        st->st_blocks = (st->st_size + 511) / 512;
        st->st_ctim = st->st_mtim;
    }
    if (node->export != NULL && (node->file == NULL || !fl_file_is_newer(node->file))) {
        st->st_mtim = fl_export_origin(node->export)->time;
        st->st_ctim = fl_export_origin(node->export)->ctime;
    }
    if (fl_node_is_piece(node))
        fl_split_times(node->split, node->piece, &st->st_mtim, &st->st_ctim);
    st->st_atim = st->st_mtim;
    return 0;
}

static double timeout_of(const FlNode *node)
{
    return node->make_text != NULL ? 0 : FOREVER;
}

static errint_t fill_entry(const FlOps *ops, const FlNode *node, struct fuse_entry_param *entry)
{
    *entry = (struct fuse_entry_param){.ino = node->ino};
    entry->attr_timeout = timeout_of(node);
    entry->entry_timeout = FOREVER;
    return fill_attributes(ops, node, &entry->attr);
}

static void reply_none(fuse_req_t req)
{
    /* A negative entry is cached forever too. */
    struct fuse_entry_param none = {.entry_timeout = FOREVER};

    fuse_reply_entry(req, &none);
}

static void run_lookup(FlCall *call, bool loaded)
{
    struct fuse_entry_param entry;

    if (!loaded || fill_entry(call->ops, call->node, &entry) < 0)
        fuse_reply_err(call->req, EIO);
    else
        fuse_reply_entry(call->req, &entry);
}

/* The folder is complete now. */
static void run_late_lookup(FlCall *call, bool loaded)
{
    FlNode *found =
        loaded ? fl_node_lookup(call->ops->tree, call->node, call->name, &call->piece) : NULL;

    call->node = found;
    if (loaded && found == NULL)
        reply_none(call->req);
    else
        run_lookup(call, loaded);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    FlOps *ops = fl_ops_of(req);
    FlCall call = {.ops = ops, .req = req, .run = run_lookup, .name = (char *)name};
    FlNode *folder;

    if (!fl_call_find(&call, parent))
        return;
    if (!fl_node_is_folder(call.node)) {
        fuse_reply_err(req, ENOTDIR);
        return;
    }
    folder = call.node;
    call.node = fl_node_lookup(ops->tree, folder, name, &call.piece);
    if (call.node != NULL) {
        fl_call_run(&call, fl_call_needs(call.node));
    } else if (is_export(folder) && may_come(name)) {
        call.node = folder;
        call.run = run_late_lookup;
        fl_call_run(&call, FL_NEEDS_TABLE);
    } else {
        reply_none(req);
    }
}

static void run_getattr(FlCall *call, bool loaded)
{
    struct stat st;

    if (!loaded || fill_attributes(call->ops, call->node, &st) < 0)
        fuse_reply_err(call->req, EIO);
    else
        fuse_reply_attr(call->req, &st, timeout_of(call->node));
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    FlCall call = {.ops = fl_ops_of(req), .req = req, .run = run_getattr};

    if (fl_call_find(&call, ino))
        fl_call_run(&call, fl_call_needs(call.node));
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    /* No blocks: df(1) leaves such file systems out. */
    struct statvfs st = {.f_bsize = BLOCK_SIZE, .f_frsize = BLOCK_SIZE, .f_namemax = 255};

    fuse_reply_statfs(req, &st);
}

/* Folders */

static size_t add_entry(FlCall *call, char *buf, size_t room, const char *name, const FlNode *node,
                        bool loaded, off_t next)
{
    struct fuse_entry_param entry = {0};

    /* An entry without attributes is just a name; a lookup reports the error. */
    if (!call->readdir.plus || g_str_equal(name, ".") || g_str_equal(name, "..") ||
        (fl_call_is_file(node) && !loaded) || fill_entry(call->ops, node, &entry) < 0) {
        entry = (struct fuse_entry_param){.attr.st_ino = node->ino};
        entry.attr.st_mode = fl_node_is_folder(node) ? S_IFDIR : S_IFREG;
    }
    return call->readdir.plus ? fuse_add_direntry_plus(call->req, buf, room, name, &entry, next)
                              : fuse_add_direntry(call->req, buf, room, name, &entry.attr, next);
}

/* Gets entry INDEX of a folder and its name, which may be stored in BUF. False at the end. */
static bool entry_at(const FlNode *folder, uint64_t index, FlNode *entry,
                     char buf[static FL_PIECE_NAME_MAX], const char **name)
{
    if (index < 2) {
        *entry = index == 0 ? *folder : *folder->parent;
        *name = index == 0 ? "." : "..";
    } else if (folder->split != NULL && index - 2 < fl_split_count(folder->split)) {
        *entry = fl_node_piece(folder, index - 2);
        fl_piece_name(buf, index - 2);
        *name = buf;
    } else if (index - 2 < folder->children->len) {
        *entry = *(const FlNode *)folder->children->pdata[index - 2];
        *name = entry->name;
    } else {
        return false;
    }
    return true;
}

static void run_readdir(FlCall *call, bool loaded)
{
    const FlNode *folder = call->node;
    g_autofree char *buf = g_try_malloc(call->readdir.size);
    char piece[FL_PIECE_NAME_MAX];
    const char *name;
    FlNode node;
    size_t used = 0;

    if (buf == NULL) {
        fuse_reply_err(call->req, ENOMEM);
        return;
    }
    for (uint64_t i = (uint64_t)call->readdir.offset; entry_at(folder, i, &node, piece, &name);
         i++) {
        size_t n = add_entry(call, buf + used, call->readdir.size - used, name, &node, loaded,
                             (off_t)i + 1);

        if (n > call->readdir.size - used)
            break;
        used += n;
    }
    fuse_reply_buf(call->req, buf, used);
}

static void read_folder(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, bool plus)
{
    FlCall call = {
        .ops = fl_ops_of(req), .req = req, .run = run_readdir, .readdir = {size, offset, plus}};

    if (!fl_call_find(&call, ino))
        return;
    if (!fl_node_is_folder(call.node))
        fuse_reply_err(req, ENOTDIR);
    else
        fl_call_run(&call, !plus                       ? FL_NEEDS_NOTHING
                           : is_export(call.node)      ? FL_NEEDS_TABLE
                           : call.node->export != NULL ? FL_NEEDS_MAPS
                                                       : FL_NEEDS_NOTHING);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
    read_folder(req, ino, size, offset, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                           struct fuse_file_info *fi)
{
    read_folder(req, ino, size, offset, true);
}

static void run_opendir(FlCall *call, bool loaded)
{
    /* A listing of an incomplete folder may lack files: do not let the kernel cache it. */
    call->opendir.cache_readdir = loaded;
    call->opendir.keep_cache = loaded;
    fuse_reply_open(call->req, &call->opendir);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    FlCall call = {.ops = fl_ops_of(req), .req = req, .run = run_opendir, .opendir = *fi};

    if (fl_call_find(&call, ino))
        fl_call_run(&call, is_export(call.node) ? FL_NEEDS_TABLE : FL_NEEDS_NOTHING);
}

/* Files */

static void opened(const FlNode *node)
{
    if (fl_node_is_piece(node))
        fl_split_opened(node->split);
    else
        fl_file_opened(node->file);
}

static void closed(const FlNode *node)
{
    if (fl_node_is_piece(node))
        fl_split_closed(node->split, node->piece);
    else
        fl_file_closed(node->file);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    FlOps *ops = fl_ops_of(req);
    FlCall call = {.ops = ops, .req = req};
    const FlNode *node;
    FlText *text = NULL;

    if (!fl_call_find(&call, ino))
        return;
    node = call.node;
    if ((fi->flags & O_ACCMODE) != O_RDONLY) {
        fuse_reply_err(req, EROFS);
        return;
    }
    fi->noflush = 1;
    if (fl_call_is_file(node)) {
        fi->keep_cache = 1;
        fi->direct_io = ops->direct_io;
        opened(node);
    } else {
        /* All reads of one descriptor see the same text. */
        fi->direct_io = 1;
        text = fl_texts_open(&ops->texts, node);
        fi->fh = (uint64_t)(uintptr_t)text;
    }
    if (fuse_reply_open(req, fi) == 0)
        return;
    /* The open was interrupted: no RELEASE will follow. */
    if (fl_call_is_file(node))
        closed(node);
    else
        fl_texts_close(&ops->texts, text);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    FlNode piece;
    const FlNode *node = fl_tree_find(fl_ops_of(req)->tree, ino, &piece);

    if (node != NULL && fl_call_is_file(node))
        closed(node);
    else if (node != NULL)
        fl_texts_close(&fl_ops_of(req)->texts, (FlText *)(uintptr_t)fi->fh);
    fuse_reply_err(req, 0);
}

/* Read at disk offsets, so that a reader that moves from piece to piece is one stream. */
static void read_piece(const FlCall *call)
{
    FlReadSource source = fl_split_source(call->node->split, call->node->piece);
    uint64_t start, end, offset = (uint64_t)call->read.offset;

    fl_split_range(call->node->split, call->node->piece, &start, &end);
    if (offset >= end - start)
        fuse_reply_buf(call->req, NULL, 0);
    else
        fl_read_reply(&source, call->req, (size_t)MIN(call->read.size, end - start - offset),
                      start + offset);
}

static void run_read(FlCall *call, bool loaded)
{
    FlReadSource source;

    if (loaded && fl_node_is_piece(call->node)) {
        read_piece(call);
        return;
    }
    if (!loaded || fl_file_view(call->node->file) == NULL) {
        fuse_reply_err(call->req, EIO);
        return;
    }
    source = fl_file_source(call->node->file);
    fl_read_reply(&source, call->req, call->read.size, (uint64_t)call->read.offset);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    FlCall call = {.ops = fl_ops_of(req), .req = req, .run = run_read, .read = {size, offset}};
    gsize length;
    const char *text;

    if (!fl_call_find(&call, ino))
        return;
    if (fl_call_is_file(call.node)) {
        fl_call_run(&call, fl_call_needs(call.node));
        return;
    }
    text = g_bytes_get_data(((const FlText *)(uintptr_t)fi->fh)->bytes, &length);
    if ((gsize)offset >= length)
        fuse_reply_buf(req, NULL, 0);
    else
        fuse_reply_buf(req, text + offset, MIN(size, length - (gsize)offset));
}

/* A reader of NODE was told that [FROM, TO) is a hole. */
static void skipped(const FlNode *node, uint64_t from, uint64_t to)
{
    if (fl_node_is_piece(node))
        fl_split_skipped(node->split, node->piece, from, to);
    else
        fl_file_skipped(node->file, from, to);
}

static void run_lseek(FlCall *call, bool loaded)
{
    g_autoptr(FlView) view = loaded ? view_of(call->node) : NULL;
    int64_t found;

    if (view == NULL) {
        fuse_reply_err(call->req, EIO);
        return;
    }
    found = fl_view_seek(view, call->lseek.offset, call->lseek.data);
    if (call->lseek.data && call->lseek.offset >= 0)
        skipped(call->node, (uint64_t)call->lseek.offset,
                found == -ENXIO ? view->size : (uint64_t)MAX(found, 0));
    if (found < 0)
        fuse_reply_err(call->req, (int)-found);
    else
        fuse_reply_lseek(call->req, found);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                     struct fuse_file_info *fi)
{
    FlCall call = {.ops = fl_ops_of(req),
                   .req = req,
                   .run = run_lseek,
                   .lseek = {offset, whence == SEEK_DATA}};

    if (!fl_call_find(&call, ino))
        return;
    if (!fl_call_is_file(call.node) || (whence != SEEK_DATA && whence != SEEK_HOLE))
        fuse_reply_err(req, EINVAL);
    else
        fl_call_run(&call, fl_call_needs(call.node));
}

static void want(struct fuse_conn_info *conn, unsigned capability)
{
    conn->want |= conn->capable & capability;
}

static void op_init(void *opaque, struct fuse_conn_info *conn)
{
    const FlOps *ops = opaque;

    /* AUTO: listings of thousands of pieces include attributes only while their reader uses these:
     * an inode costs the kernel five times as much as a name. */
    want(conn, FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
                   FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO);
    conn->want &= ~(unsigned)FUSE_CAP_AUTO_INVAL_DATA;
    conn->max_read = ops->max_read;
    conn->max_background = 64;
    conn->congestion_threshold = 48;
}

const struct fuse_lowlevel_ops fl_fuse_ops = {
    .init = op_init,
    .lookup = op_lookup,
    .getattr = op_getattr,
    .statfs = op_statfs,
    .getxattr = fl_op_getxattr,
    .listxattr = fl_op_listxattr,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .readdirplus = op_readdirplus,
    .open = op_open,
    .release = op_release,
    .read = op_read,
    .lseek = op_lseek,
    .ioctl = fl_op_ioctl,
};
