/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finds what fleecefs-backup has stored below a folder: VMs, disks and generations, and their
 * dependencies.
 *
 * A disk is found by its info.json. Next to that are disk.qcow2, disk.raw, split/ or the increments
 * in dirty/; next to the disk's folder is vm.json. Identity and order come from their contents,
 * never from clocks: an increment belongs on the image whose restore point is its base and that has
 * the same disk_id, regardless of location and name. If these were not recorded, names are used.
 * contrib/fleecefs_backups/stored.py does the same for fleecefs-restore.
 *
 * Input is not trusted: symbolic links are not followed, files and numbers are bounded, and what is
 * remembered is charged to a budget.
 * Functions block; a result is immutable and may be read by any thread.
 */
#pragma once

#include "util/budget.h"
#include "util/error.h"

#include <stdint.h>
#include <time.h>

/* The identity of a VM; NULL where it was not recorded. */
typedef struct {
    char *uuid, *name, *source;
} FlStoredVm;

/* In order of preference. */
typedef enum {
    FL_STORED_QCOW2,
    FL_STORED_RAW,
    FL_STORED_PIECES,
} FlStoredForm;

/* A full backup or an increment of one disk. Strings may be NULL where nothing was recorded. */
typedef struct FlStoredImage FlStoredImage;
struct FlStoredImage {
    char *path; /* the file, or the folder of pieces */
    char *map;  /* of a raw increment: the map of its ranges; else NULL */
    char *home; /* the disk's folder */
    char *disk; /* the name of HOME */
    FlStoredForm form;
    uint64_t size; /* of the disk, in bytes */
    struct timespec time;
    char *point;             /* its restore point */
    char *base, *disk_id;    /* base: restore point that it is relative to; NULL: full */
    char *generation;        /* name */
    gint64 number;           /* of the generation; -1: none was recorded */
    FlStoredVm *vm;          /* belongs to FlStored; the same VM has the same pointer */
    const FlStoredImage *on; /* image below an increment; NULL: full, or has a fault */
    char *fault;             /* why it cannot be restored; NULL: it can. A GRefString: images on
                                top of one another have the same */
    unsigned depth;          /* number of increments down to the full backup */

    /* Private to stored/. */
    FlStoredVm said;
    bool in_line, resolved;
    gint64 order_number;
    struct timespec order_time;
};

typedef struct {
    char *top;          /* the folder, absolute and without symbolic links */
    GPtrArray *images;  /* of FlStoredImage, the oldest first */
    GPtrArray *vms;     /* of FlStoredVm */
    GPtrArray *damaged; /* of char *: files that cannot be read, and why */
    FlBudget *budget;
    uint64_t taken; /* bytes of it */
} FlStored;

/* Reads the backups below FOLDER; fails if there are none, or more than BUDGET or our own limits
 * allow. Takes a reference to BUDGET. */
FlStored *fl_stored_read(const char *folder, FlBudget *budget, GError **error);
void fl_stored_free(FlStored *stored); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlStored, fl_stored_free)

/*
 * Selects the disks of one generation of one VM (of const FlStoredImage *). VM is a name, UUID or
 * folder, and may be NULL if there is only one VM. AT is NULL for the newest generation, or an id,
 * the start of an id, a folder, or a time (stored/when.h), which selects the last generation up to
 * then. If nothing or several match, the error lists the candidates; if a disk cannot be restored,
 * it names what is missing.
 */
GPtrArray *fl_stored_choose(const FlStored *stored, const char *vm, const char *at, GDateTime *now,
                            GError **error);

/* The disks of all generations that can be restored, of all VMs or of VM. */
GPtrArray *fl_stored_all(const FlStored *stored, const char *vm, GError **error);

/* The label of a VM for people: its name, UUID or source. */
const char *fl_stored_vm_label(const FlStoredVm *vm);
/* The folder of the generation that IMAGE belongs to. The caller frees it. */
char *fl_stored_generation_folder(const FlStoredImage *image);
