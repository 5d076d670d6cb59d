/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The changed files of a file system, found by inode, and their names, found in folders.
 *
 * A block of a dirty bitmap holds many inodes, so an inode in a changed block may be unchanged; its
 * change time (ctime) decides. The guest's clock may be wrong, but the newest time on the file
 * system comes from the same clock: fl_changed_list_finish() compares with that.
 */
#pragma once

#include "changed/part.h"

typedef enum {
    FL_CHANGED_DATA,
    FL_CHANGED_METADATA, /* mode, owner, name, size, attributes; not contents */
    FL_CHANGED_DELETED,
} FlChangedHow;

typedef struct {
    uint64_t id; /* inode number or equivalent */
    FlChangedHow how;
    bool folder;
    /* The only evidence of a change is its location: dropped if TIME is too old. */
    bool by_time;
    int64_t time;    /* ctime by the guest's clock, seconds since 1970 */
    uint64_t bytes;  /* of its contents in changed blocks */
    uint64_t again;  /* of BYTES, in blocks with FL_AGAIN */
    GArray *extents; /* of FlExtent: the location of BYTES in the part; NULL: not requested */
} FlChangedFile;

/* A name of a file. */
typedef struct {
    char *path; /* without a leading slash; NULL: no longer known */
    const FlChangedFile *file;
} FlChangedName;

typedef struct FlChangedList FlChangedList;

/* ROOT is the id of the root folder. */
FlChangedList *fl_changed_list_new(const FlPart *part, uint64_t root, bool extents);
void fl_changed_list_free(FlChangedList *list); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlChangedList, fl_changed_list_free)

/* Records the time of an inode, changed or not. */
void fl_changed_list_observe(FlChangedList *list, int64_t time);

/* Adds the changed bytes of [OFFSET, OFFSET + LENGTH), a part of FILE's contents, to FILE. */
void fl_changed_list_measure(FlChangedList *list, FlChangedFile *file, uint64_t length,
                             uint64_t offset);
/* Adds a copy of FILE. Takes ownership of its extents and sets them to NULL. */
void fl_changed_list_add(FlChangedList *list, FlChangedFile *file);

/* Records that entry NAME of folder PARENT refers to ID. Names of files count only if the file was
 * added before; those of folders may come in any order. DELETED: the entry was removed. */
void fl_changed_list_name(FlChangedList *list, uint64_t parent, uint64_t id, const char *name,
                          bool folder, bool deleted);

/* Records that something could not be read, so the list may be incomplete. */
void fl_changed_list_fault(FlChangedList *list);
unsigned fl_changed_list_faults(const FlChangedList *list);

/* Drops files that are too old and resolves all paths. Returns FlChangedName, sorted by path, owned
 * by LIST. Call once. */
const GPtrArray *fl_changed_list_finish(FlChangedList *list);
