/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files about an export share. */
#pragma once

#include "disk/table.h"
#include "map/context.h"
#include "map/cover.h"
#include "mount/export.h"
#include "mount/split.h"

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
    GArray *waiters;   /* for the table; NULL: nobody asked */
    FlFileAdded added; /* may be NULL */
    void *opaque;
};

struct FlFile {
    FlExport *export;
    const struct FlFileKind *kind; /* see export.c */
    const char *context;           /* the meta context that the file is about; NULL: none */
    const FlBitmap *bitmap;        /* NULL: not about a bitmap */
    const FlPartition *partition;  /* NULL: not a partition's */
    const FlVolume *volume;        /* NULL: not a logical volume's */
    char *path;
    FlView *view; /* NULL until somebody asked */
    FlStreams *streams;
    unsigned opened;
    FlCover *tables; /* of a qcow2: which made-up bytes reached a reader */
};

/* ISO 8601 with microseconds, in UTC; to be freed with g_free(). */
char *fl_time_format(const struct timespec *time);

FlSplit *fl_split_new(FlExport *export);
void fl_split_free(FlSplit *split); /* NULL is fine */
/* Its part of info.json. */
void fl_split_add_info(const FlSplit *split, JsonBuilder *json);

/* The table is known, and taken over: adds the files of its partitions. */
void fl_export_add_partitions(FlExport *export, FlTable *table);
/* For fl_export_free(): nobody waits any more. */
void fl_export_forget_table(FlExport *export);
