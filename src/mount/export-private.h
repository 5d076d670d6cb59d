/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Declarations shared by the files about an export. */
#pragma once

#include "disk/table.h"
#include "map/context.h"
#include "map/cover.h"
#include "mount/export.h"
#include "mount/split.h"

/* Maximum number of separate delivered ranges if they only serve to show progress, not to permit a
 * commit: 32 KiB. */
#define FL_PROGRESS_MAX (1u << 10)

typedef struct FlTableReading FlTableReading;

struct FlExport {
    FlDisk *disk;
    FlOrigin *origin;
    const FlViewOptions *options;
    FlBlocks *blocks;
    GPtrArray *files; /* of FlFile */
    FlCover *cover;   /* ranges of the disk delivered to readers */
    unsigned opened;  /* files */
    bool has_qcow2;
    FlSplit *split;
    FlTable *table;          /* NULL until known */
    const char *table_fault; /* why it will never be known; NULL: it may be */
    FlTableReading *reading;
    FlWaiters *waiters; /* for the table */
    bool completing;    /* the table, or the maps before it, are loading */
    FlFileAdded added;  /* may be NULL */
    void *opaque;
};

/* A kind of file: a name and a constructor. */
typedef struct {
    const char *path; /* %s is replaced by the name of the bitmap or context, or by a number */
    FlView *(*make)(FlFile *file);
    bool is_newer;   /* see fl_file_is_newer() */
    bool has_tables; /* a qcow2: delivery of its tables counts */
    bool is_disk;    /* the whole disk, byte for byte: its holes count */
} FlFileKind;

struct FlFile {
    FlExport *export;
    const FlFileKind *kind;
    const char *context;          /* meta context that the file describes; NULL: none */
    const FlBitmap *bitmap;       /* NULL: not about a bitmap */
    const FlPartition *partition; /* NULL: not a partition's */
    const FlVolume *volume;       /* NULL: not a logical volume's */
    char *path;
    FlView *view; /* NULL until requested */
    FlStreams *streams;
    unsigned opened;
    FlCover *tables; /* of a qcow2: generated ranges delivered to readers */
};

/* Creates a file of KIND and adds it to EXPORT. NAME is required if the path contains %s; it is
 * made safe. The caller sets other fields that the kind needs, before the view is requested. */
FlFile *fl_file_new(FlExport *export, const FlFileKind *kind, const char *name);
/* Notifies the watcher of the export about a file added later. */
void fl_file_announce(FlFile *file);
void fl_file_free(FlFile *file);
/* For constructors of views: the map of the file's context (NULL: none), the allocation map (NULL:
 * unknown), the size of the disk in bytes. */
FlMap *fl_file_map(const FlFile *file);
FlMap *fl_file_alloc(const FlFile *file);
uint64_t fl_file_disk_size(const FlFile *file);

/* Formats TIME as ISO 8601 with microseconds, in UTC. Free with g_free(). */
char *fl_time_format(const struct timespec *time);

FlSplit *fl_split_new(FlExport *export);
void fl_split_free(FlSplit *split); /* NULL is fine */
/* Adds the members about the pieces to info.json. */
void fl_split_add_info(FlSplit *split, JsonBuilder *json);

/* For fl_export_free(): abandons reading the table; no waiter is called. */
void fl_export_forget_table(FlExport *export);
