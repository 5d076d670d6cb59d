/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* FUSE requests that may have to wait for their export. Private to mount/. */
#pragma once

#include "ops.h"
#include "texts.h"

#include <fuse_lowlevel.h>

struct FlOps {
    FlTree *tree;
    uid_t uid;
    gid_t gid;
    bool direct_io;    /* no page cache for file contents */
    unsigned max_read; /* maximum read request of the kernel in bytes; 0: its default */
    struct timespec mounted;
    const FlControl *control; /* may be NULL */
    FlThrottle *throttle;     /* may be NULL */
    FlTexts texts;
};

typedef struct FlCall FlCall;
struct FlCall {
    FlOps *ops;
    fuse_req_t req; /* NULL once it was interrupted */
    FlNode *node;
    FlNode piece; /* storage for NODE if it is a piece, which has no node in the tree */
    /* Replies to REQ. LOADED: what the call waited for was loaded. */
    void (*run)(FlCall *call, bool loaded);
    char *name; /* the xattr, or the entry to look up; NULL in other requests */
    /* The arguments of the request. */
    union {
        struct {
            size_t size;
            off_t offset;
        } read;
        struct {
            size_t size;
            off_t offset;
            bool plus; /* readdirplus */
        } readdir;
        struct {
            off_t offset;
            bool data; /* SEEK_DATA, not SEEK_HOLE */
        } lseek;
        struct {
            size_t size;
        } xattr;
        struct fuse_file_info opendir;
    };
};

FlOps *fl_ops_of(fuse_req_t req);
/* Finds the call's node. Otherwise replies with an error and returns false. */
bool fl_call_find(FlCall *call, fuse_ino_t ino);

/* What must be loaded before a request can be answered. */
typedef enum {
    FL_NEEDS_NOTHING,
    FL_NEEDS_MAPS,  /* fl_disk_load() */
    FL_NEEDS_TABLE, /* fl_export_complete() */
} FlNeeds;

/* Whether NODE is a file of an export, not a folder or a generated text. */
bool fl_call_is_file(const FlNode *node);
/* What the attributes and the view of NODE need. */
FlNeeds fl_call_needs(const FlNode *node);

/* Runs a copy of CALL once NEEDS is loaded for its node's export, or at once if it is. */
void fl_call_run(const FlCall *call, FlNeeds needs);

/* Extended attributes, in xattr.c. */
void fl_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void fl_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);

/* The ioctl(2) for commands to the mount. */
void fl_op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
                 unsigned flags, const void *in, size_t in_size, size_t out_size);
