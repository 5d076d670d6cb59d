/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What fleecefs-backup has stored below a folder: which VMs, disks and generations, and what is
 * based on what.
 *
 * A disk is found by its info.json; beside it are disk.qcow2, disk.raw, split/ or the increments in
 * dirty/, and beside its folder is vm.json. Identity and order come from what these say, never from
 * clocks: an increment belongs on the image whose restore point is its base and whose disk_id is
 * its own, wherever that lies and whatever it is called. Where these were not recorded, names have
 * to do. contrib/fleecefs_backups/stored.py does the same for fleecefs-restore.
 *
 * Nothing that is read is trusted: no symbolic link is followed, files and numbers are bounded.
 * Blocks; a result is immutable and may be read by any thread.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>
#include <time.h>

/* Which VM it is, as far as that was recorded; NULL where not. */
typedef struct {
    char *uuid, *name, *source;
} FlStoredVm;

/* The one that is preferred comes first. */
typedef enum {
    FL_STORED_QCOW2,
    FL_STORED_RAW,
    FL_STORED_PIECES,
} FlStoredForm;

/* A full backup or an increment of one disk. Strings may be NULL where nothing was recorded. */
typedef struct FlStoredImage FlStoredImage;
struct FlStoredImage {
    char *path; /* the file, or the folder of pieces */
    char *map;  /* of a raw increment: which ranges it has; else NULL */
    char *home; /* the disk's folder */
    char *disk; /* the name of that */
    FlStoredForm form;
    uint64_t size; /* of the disk, in bytes */
    struct timespec time;
    char *point;             /* its restore point */
    char *base, *disk_id;    /* base: what it is relative to; NULL: it is full */
    char *generation;        /* its name */
    gint64 number;           /* of the generation; -1: none was recorded */
    FlStoredVm *vm;          /* belongs to what was read; equal pointers are the same VM */
    const FlStoredImage *on; /* what an increment lies on; NULL: it is full, or has a fault */
    char *fault;             /* why it cannot be put together; NULL: it can */
    unsigned depth;          /* increments from the full backup on */

    /* Private to stored/. */
    FlStoredVm said;
    bool resolved;
    gint64 order_number;
    struct timespec order_time;
};

typedef struct {
    char *top;          /* the folder, absolute and without symbolic links */
    GPtrArray *images;  /* of FlStoredImage, the oldest first */
    GPtrArray *vms;     /* of FlStoredVm */
    GPtrArray *damaged; /* of char *: what cannot be read, and why */
} FlStored;

/* Reads what is below FOLDER; an error if that holds no backup. */
FlStored *fl_stored_read(const char *folder, GError **error);
void fl_stored_free(FlStored *stored); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlStored, fl_stored_free)

/*
 * The disks of one generation of one VM (of const FlStoredImage *): of the VM called VM, by its
 * name, UUID or folder, which may be NULL if there is only one; of the newest generation, or that
 * which AT names (an id, a folder, the beginning of an id), or the last that was taken until then
 * (stored/when.h). An error lists what there is if that is not one, and names what is missing if
 * one cannot be put together.
 */
GPtrArray *fl_stored_choose(const FlStored *stored, const char *vm, const char *at, GDateTime *now,
                            GError **error);

/* The disks of all generations that can be put together, of all VMs or of that called VM. */
GPtrArray *fl_stored_all(const FlStored *stored, const char *vm, GError **error);

/* What people call it: its name, UUID or source. */
const char *fl_stored_vm_label(const FlStoredVm *vm);
/* The folder of the generation that IMAGE is in. To be freed. */
char *fl_stored_generation_folder(const FlStoredImage *image);
