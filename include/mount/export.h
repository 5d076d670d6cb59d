/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An export as a folder: which files it has, and the view of each.
 *
 * Which files there are follows from the meta contexts alone, so that a thousand exports mount
 * without loading a map. Only those of its partitions are there no sooner than it is complete, when
 * somebody asked for them. Views are made when somebody first asks for a file's attributes; the
 * maps must be there by then (fl_disk_load()). Belongs to the loop.
 */
#pragma once

#include "map/times.h"
#include "mount/read.h"
#include "mount/split.h"

#include <json-glib/json-glib.h>
#include <time.h>

/* How a mount makes files and reads them; parsed once, never changed. */
typedef struct {
    uint64_t cache, readahead;   /* bytes */
    uint64_t cluster_size;       /* of qcow2 files; 0: as fits the bitmap */
    uint64_t split;              /* bytes of a piece; 0: as fits the disk */
    char *backing, *backing_fmt; /* of increments; NULL: ../disk.raw and raw; "none" for none */
} FlViewOptions;

/* Where an export comes from. Strings may be NULL where a source has nothing to say. */
typedef struct {
    char *source; /* the name that inodes are hashed with: stable from mount to mount */
    char *folder; /* name of the folder, before it is made safe */
    struct timespec time, ctime; /* point in time, and the files' ctime */
    GPtrArray *bitmaps;          /* of FlBitmap: those known beforehand */
    GPtrArray *inconsistent;     /* of char *: bitmaps that are not served */
    const char *no_maps;         /* why the server is not asked for its maps; NULL: it is */
    char *format;                /* of an image file */
    char *mode, *reason;         /* "full" or "incremental", and why it is full */
    char *restore_point, *base;
    char *disk_id;     /* what disk it is, in its series */
    char *snapshot_id; /* of all disks that were taken together */
    /* The VM that the disk is of. */
    char *vm_uuid, *vm_name, *vm_source;
    /* A snapshot that a commit keeps; the milliseconds that it took to take it, that the guest's
     * writes were held for it, and that the guest was frozen (0: it was not); the context of its
     * increment, NULL for a full backup. */
    bool snapshot;
    unsigned begin_ms, held_ms, frozen_ms;
    char *increment;
    /* Bytes that the scratch file of the snapshot takes and may take; NULL where there is none. */
    void (*scratch_use)(const void *scratch, uint64_t *used, uint64_t *limit);
    void *scratch;  /* freed with g_free() */
    FlTimes *times; /* of its pieces at the base; NULL: not known */
    /* Of those that have changed: not before time, or since when the image of a VM that is shut off
     * has been as it is; and the earliest ctime of theirs. */
    struct timespec piece_time, piece_ctime;
    char *place; /* what its times are noted under; NULL: nothing */
} FlOrigin;
FlOrigin *fl_origin_new(const char *source, const char *folder);
void fl_origin_free(FlOrigin *origin); /* NULL is fine */

typedef struct FlExport FlExport;
typedef struct FlFile FlFile;

/* Takes over ORIGIN; OPTIONS outlive it. */
FlExport *fl_export_new(FlDisk *disk, FlOrigin *origin, FlCache *cache,
                        const FlViewOptions *options);
void fl_export_free(FlExport *export); /* NULL is fine */

FlDisk *fl_export_disk(const FlExport *export);
const FlOrigin *fl_export_origin(const FlExport *export);

/* The disk in pieces; belongs to EXPORT. */
FlSplit *fl_export_split(const FlExport *export);

/* The files (FlFile), belonging to EXPORT; and who is told of each that comes later. */
const GPtrArray *fl_export_files(const FlExport *export);
typedef void (*FlFileAdded)(FlExport *export, FlFile *file, void *opaque);
void fl_export_watch(FlExport *export, FlFileAdded added, void *opaque);

/*
 * Loads the maps and reads the partition table, and calls DONE (possibly before this returns) with
 * 0 or -errno: that of the maps, since a table that cannot be had, or not soon, is only not there.
 * Several callers share one reading, and its outcome holds for good.
 */
void fl_export_complete(FlExport *export, FlDiskLoaded done, void *opaque);
bool fl_export_is_complete(const FlExport *export);

/* The path below the export's folder: "disk.raw", "dirty/b.map"; parts are safe names. */
const char *fl_file_path(const FlFile *file);
/* Whether the file is text about the export, newer than the snapshot: info.json. Its view needs the
 * export to be complete. */
bool fl_file_is_newer(const FlFile *file);
/* The view, once the maps are loaded; NULL if it cannot be made (said in the log). Belongs to FILE.
 */
const FlView *fl_file_view(FlFile *file);
/* What to read it from. The same conditions. */
FlReadSource fl_file_source(FlFile *file);
/* Somebody has opened or closed the file: what was read ahead goes with the last. */
void fl_file_opened(FlFile *file);
void fl_file_closed(FlFile *file);

/* The extended attributes: names and values, without their prefix "user.fleecefs.". Maps must be
 * loaded. The caller frees it (g_hash_table_unref). */
GHashTable *fl_file_xattrs(FlFile *file);

/* Bytes that a reader wants, and those of them that were delivered to readers without an error, by
 * whichever files. */
typedef struct {
    uint64_t wanted, delivered;
} FlCoverage;

/*
 * Of what is dirty in BITMAP (a meta context), or, if that is NULL, of all that is data: of the
 * origin's increment, this is what a backup of a snapshot has to carry. A dirty range that reads as
 * zeros counts when it was read from the raw file, or when all tables of the qcow2 were, which say
 * the same. Memory for what was delivered is bounded: of a disk read in millions of ranges that do
 * not touch, less may be known than was delivered. Maps must be loaded.
 */
FlCoverage fl_export_coverage(const FlExport *export, const char *bitmap);

/* info.json. Maps must be loaded. */
GBytes *fl_export_info_json(FlExport *export);
