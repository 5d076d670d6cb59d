/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files about an export share. */
#pragma once

#include "disk/table.h"
#include "map/context.h"
#include "map/cover.h"
#include "mount/export.h"
#include "mount/split.h"

/* Ranges of what was delivered that are kept apart where there is no commit to allow, only progress
 * to show: 32 KiB. */
#define FL_PROGRESS_MAX (1u << 10)

typedef struct FlTableReading FlTableReading;

struct FlExport {
    FlDisk *disk;
    FlOrigin *origin;
    const FlViewOptions *options;
    FlBlocks *blocks;
    GPtrArray *files; /* of FlFile */
    FlCover *cover;   /* ranges of the disk that reached a reader */
    unsigned opened;  /* files */
    bool has_qcow2;
    FlSplit *split;
    FlTable *table;          /* NULL until it is known */
    const char *table_fault; /* why it never will be; NULL: it may */
    FlTableReading *reading;
    FlWaiters *waiters; /* for the table */
    bool completing;    /* it, or the maps before it, are on their way */
    FlFileAdded added;  /* may be NULL */
    void *opaque;
};

/* A kind of files: a name and a constructor. */
typedef struct {
    const char *path; /* %s stands for the name of the bitmap or context, or a number */
    FlView *(*make)(FlFile *file);
    bool is_newer;   /* see fl_file_is_newer() */
    bool has_tables; /* a qcow2: what is delivered of its tables counts */
} FlFileKind;

struct FlFile {
    FlExport *export;
    const FlFileKind *kind;
    const char *context;          /* the meta context that the file is about; NULL: none */
    const FlBitmap *bitmap;       /* NULL: not about a bitmap */
    const FlPartition *partition; /* NULL: not a partition's */
    const FlVolume *volume;       /* NULL: not a logical volume's */
    char *path;
    FlView *view; /* NULL until somebody asked */
    FlStreams *streams;
    unsigned opened;
    FlCover *tables; /* of a qcow2: which made-up bytes reached a reader */
};

/* A file of KIND, added to EXPORT. NAME is needed where the path has room for it, and made safe.
 * What the kind needs beyond is set by the caller, before anybody asks for the view. */
FlFile *fl_file_new(FlExport *export, const FlFileKind *kind, const char *name);
/* Tells whoever watches the export of a file that came later. */
void fl_file_announce(FlFile *file);
void fl_file_free(FlFile *file);
/* For the constructors of views: the map that the file is about (NULL: none), the allocation map
 * (NULL: not known), the size of the disk in bytes. */
FlMap *fl_file_map(const FlFile *file);
FlMap *fl_file_alloc(const FlFile *file);
uint64_t fl_file_disk_size(const FlFile *file);

/* ISO 8601 with microseconds, in UTC; to be freed with g_free(). */
char *fl_time_format(const struct timespec *time);

FlSplit *fl_split_new(FlExport *export);
void fl_split_free(FlSplit *split); /* NULL is fine */
/* Its part of info.json. */
void fl_split_add_info(const FlSplit *split, JsonBuilder *json);

/* For fl_export_free(): nobody waits any more. */
void fl_export_forget_table(FlExport *export);
