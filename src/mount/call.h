/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* FUSE requests that may have to wait for their export. Private to mount/. */
#pragma once

#include "ops.h"

#include <fuse_lowlevel.h>

struct FlOps {
    FlTree *tree;
    uid_t uid;
    gid_t gid;
    unsigned max_read; /* bytes that the kernel asks for at once; 0: as many as it likes */
    struct timespec mounted;
    const FlControl *control; /* may be NULL */
    GHashTable *texts;        /* of GBytes: what open files of made-up text show */
};

typedef struct FlCall FlCall;
struct FlCall {
    FlOps *ops;
    fuse_req_t req; /* NULL once it was interrupted */
    FlNode *node;
    FlNode piece; /* what NODE is if it is a piece, which has no node of its own */
    /* LOADED: what it waited for is there. Replies to REQ. */
    void (*run)(FlCall *call, bool loaded);
    size_t size;
    off_t offset;
    bool plus, data; /* readdirplus; SEEK_DATA */
    char *name;      /* of an xattr, or in the folder */
    struct fuse_file_info fi;
};

FlOps *fl_ops_of(fuse_req_t req);
/* Finds the call's node; false if there is none, and then its request was replied to. */
bool fl_call_find(FlCall *call, fuse_ino_t ino);

/* What must be there before a request can be answered. */
typedef enum {
    FL_NEEDS_NOTHING,
    FL_NEEDS_MAPS,  /* fl_disk_load() */
    FL_NEEDS_TABLE, /* fl_export_complete() */
} FlNeeds;

/* Runs CALL, which stays the caller's, as soon as its node's export has it; at once if it does. */
void fl_call_run(const FlCall *call, FlNeeds needs);

/* The ioctl(2) by which a mount is commanded. */
void fl_op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
                 unsigned flags, const void *in, size_t in_size, size_t out_size);
