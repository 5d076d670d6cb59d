/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of a file system that changed, as they are found by inode, and the names that lead to
 * them, as they are found in folders.
 *
 * A block of a dirty bitmap holds many inodes: that an inode lies in a changed block says little,
 * and its time of change (ctime) has the last word. The guest's clock may be wrong, but it is the
 * same clock that wrote the newest time of all: fl_changed_list_finish() compares.
 */
#pragma once

#include "changed/part.h"

typedef enum {
    FL_CHANGED_DATA,
    FL_CHANGED_METADATA, /* mode, owner, name, size, attributes: not its contents */
    FL_CHANGED_DELETED,
} FlChangedHow;

typedef struct {
    uint64_t id; /* inode or what serves as one */
    FlChangedHow how;
    bool folder;
    /* Only its place says that it may have changed: dropped if it is older than the time. */
    bool by_time;
    int64_t time;    /* ctime by the guest's clock, seconds since 1970 */
    uint64_t bytes;  /* of its contents in changed blocks */
    uint64_t again;  /* of these, in blocks with FL_AGAIN */
    GArray *extents; /* of FlExtent: where in the part these are; NULL: not asked for */
} FlChangedFile;

/* A name of a file. */
typedef struct {
    char *path; /* without a leading slash; NULL: nothing tells it any more */
    const FlChangedFile *file;
} FlChangedName;

typedef struct FlChangedList FlChangedList;

/* ROOT is the id of the topmost folder. */
FlChangedList *fl_changed_list_new(const FlPart *part, uint64_t root, bool extents);
void fl_changed_list_free(FlChangedList *list); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlChangedList, fl_changed_list_free)

/* Tells of the time of an inode, changed or not. */
void fl_changed_list_observe(FlChangedList *list, int64_t time);

/* Adds what changed of [offset, offset + length), a part of FILE's contents, to FILE. */
void fl_changed_list_measure(FlChangedList *list, FlChangedFile *file, uint64_t length,
                             uint64_t offset);
/* Adds a copy of FILE, whose extents are taken over, and are NULL then. */
void fl_changed_list_add(FlChangedList *list, FlChangedFile *file);

/* An entry NAME of folder PARENT leads to ID. Names of files that changed count only after they
 * were added; those of folders in any order. DELETED: the entry was removed. */
void fl_changed_list_name(FlChangedList *list, uint64_t parent, uint64_t id, const char *name,
                          bool folder, bool deleted);

/* Something could not be read, and what it would tell is missing. */
void fl_changed_list_fault(FlChangedList *list);
unsigned fl_changed_list_faults(const FlChangedList *list);

/* Drops what is too old and finds all paths; of FlChangedName, in the order of the paths. Once. It
 * belongs to LIST. */
const GPtrArray *fl_changed_list_finish(FlChangedList *list);
