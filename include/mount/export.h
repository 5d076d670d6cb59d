/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An export as a folder: its files, and the view of each.
 *
 * The list of files follows from the meta contexts alone, so that a thousand exports mount without
 * loading a map. The exception is partition files, which appear once the export is complete
 * (fl_export_complete()). Views are created when a file's attributes are first requested; the maps
 * must be loaded by then (fl_disk_load()). Call from the loop only.
 */
#pragma once

#include "mount/origin.h"
#include "mount/read.h"
#include "mount/split.h"

#include <json-glib/json-glib.h>
#include <time.h>

/* How a mount generates and reads files; parsed once, then constant. */
typedef struct {
    uint64_t cache, readahead; /* bytes */
    uint64_t cluster_size;     /* of qcow2 files; 0: chosen to fit the bitmap */
    uint64_t split;            /* piece size in bytes; 0: chosen to fit the disk */
    char *backing,
        *backing_fmt; /* of increments; NULL: ../disk.raw and raw; "none": no backing file */
} FlViewOptions;

typedef struct FlExport FlExport;
typedef struct FlFile FlFile;

/* Takes ownership of ORIGIN; OPTIONS must outlive the export. */
FlExport *fl_export_new(FlDisk *disk, FlOrigin *origin, FlCache *cache,
                        const FlViewOptions *options);
void fl_export_free(FlExport *export); /* NULL is fine */

FlDisk *fl_export_disk(const FlExport *export);
const FlOrigin *fl_export_origin(const FlExport *export);

/* The disk split into pieces; owned by EXPORT. */
FlSplit *fl_export_split(const FlExport *export);

/* The files (of FlFile), owned by EXPORT; and a callback for each file added later. */
const GPtrArray *fl_export_files(const FlExport *export);
typedef void (*FlFileAdded)(FlExport *export, FlFile *file, void *opaque);
void fl_export_watch(FlExport *export, FlFileAdded added, void *opaque);

/*
 * Loads the maps and reads the partition table, then calls DONE (possibly before this returns) with
 * 0 or -errno. The result is that of the maps: a partition table that cannot be read, or not in
 * time, is treated as absent. Concurrent callers share one attempt, and its outcome is final.
 */
void fl_export_complete(FlExport *export, FlDiskLoaded done, void *opaque);
bool fl_export_is_complete(const FlExport *export);

/* The path relative to the export's folder: "disk.raw", "dirty/b.map". Its components are safe
 * names. */
const char *fl_file_path(const FlFile *file);
/* Whether the file is text about the export, and newer than the snapshot: info.json. Its view needs
 * a complete export. */
bool fl_file_is_newer(const FlFile *file);
/* The view, or NULL if it cannot be created (the reason is logged). Maps must be loaded. Owned by
 * FILE. */
const FlView *fl_file_view(FlFile *file);
/* The source for reads of the file. Same conditions as fl_file_view(). */
FlReadSource fl_file_source(FlFile *file);
/* A reader was told that [FROM, TO) is a hole. In disk.raw it counts as delivered: tools that seek
 * over holes never read the zeros in them, not even new ones. */
void fl_file_skipped(FlFile *file, uint64_t from, uint64_t to);
/* Count the opens of the file. The last close drops what was read ahead. */
void fl_file_opened(FlFile *file);
void fl_file_closed(FlFile *file);

/* Names and values of the extended attributes; names lack the prefix "user.fleecefs.". Maps must be
 * loaded. The caller frees the table (g_hash_table_unref). */
GHashTable *fl_file_xattrs(FlFile *file);

/* Bytes that a backup needs, and how many of them were delivered to readers without an error,
 * through any of the files. */
typedef struct {
    uint64_t wanted, delivered;
} FlCoverage;

/*
 * Coverage of the dirty ranges of BITMAP (a meta context), or of all data if BITMAP is NULL. For
 * the origin's increment, this is what a backup of a snapshot has to contain. A dirty range that
 * reads as zeros counts once it was read from the raw file, or once all tables of the qcow2, which
 * encode the same, were read. Memory for tracking is bounded: if a disk is read in millions of
 * ranges that do not touch, the result may be lower than what was delivered. Maps must be loaded.
 */
FlCoverage fl_export_coverage(const FlExport *export, const char *bitmap);

/* info.json. Maps must be loaded. */
GBytes *fl_export_info_json(FlExport *export);
