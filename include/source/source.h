/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where disks come from: a server, an image file, or whatever else has exports with maps and bytes.
 *
 * What blocks is called by the thread that sets up or by a worker, never by the loop, and is
 * bounded by a FlWait. A source is counted, and any thread may use it; what a kind changes in it
 * has a lock of its own. Errors are FL_ERROR_LOST where another try may find the source well, and
 * FL_ERROR_CHANGED where it is no longer what it was.
 *
 * A kind of source is a folder below src/source/: it embeds FlSource at the start of its own
 * struct, fills in FlSourceOps, and is listed in src/source/meson.build (see source/kind.h). What
 * the ops of a source do not have is asked of the source that it is laid over.
 */
#pragma once

#include "map/bitmap.h"
#include "map/maps.h"
#include "source/conn.h"
#include "util/budget.h"
#include "util/sandbox.h"

#include <stdint.h>
#include <time.h>

/* Bytes that all of what the sources of a mount say of their exports may take: names, descriptions,
 * contexts, and maps. */
#define FL_SOURCE_BUDGET (UINT64_C(1) << 30)

/* What is known of an export before any of its bytes are read. */
typedef struct {
    char *name;        /* as the source has it; "" is the default export */
    char *description; /* NULL if none */
    uint64_t size;     /* bytes */
    uint32_t block_min, block_preferred, block_max; /* bytes of a read; see fl_export_info_new() */
    bool multi_conn;     /* several connections see one state, and may be opened */
    bool ends_with_last; /* the server may end with its last connection: one is kept open */
    GPtrArray *contexts; /* of char *: meta contexts, in the source's order */

    /* What only some sources know. */
    GPtrArray *bitmaps;           /* of FlBitmap, sorted by name; some may not be served */
    char **path;                  /* folders of the tree that it is in, and its own; ended by NULL.
                                     NULL: one that has its name */
    char *format;                 /* of the image file that it is, as QEMU calls it; else NULL */
    struct timespec mtime, ctime; /* of that file; 0: it is none */
} FlExportInfo;

/* For reads of any offset and length up to 32 MiB, and with several connections. */
FlExportInfo *fl_export_info_new(const char *name, uint64_t size);
void fl_export_info_free(FlExportInfo *info); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlExportInfo, fl_export_info_free)
bool fl_export_info_has_context(const FlExportInfo *info, const char *context);

typedef struct FlSource FlSource;

typedef struct {
    GPtrArray *(*exports)(FlSource *source, const char *name, const FlWait *wait, GError **error);
    FlConn *(*open)(FlSource *source, const FlExportInfo *info, const char *const *contexts,
                    const FlWait *wait, GError **error);
    FlDiskMaps *(*load)(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                        GError **error);
    void (*allow)(const FlSource *source, FlSandbox *sandbox);
    /* Ends what the source has started. */
    void (*close)(FlSource *source);
    /* Frees all but FlSource. */
    void (*clear)(FlSource *source);
} FlSourceOps;

/* Every kind of source starts with this. */
struct FlSource {
    const FlSourceOps *ops;
    gatomicrefcount refs;
    char *label;     /* what messages and info.json call it: never a password */
    FlSource *below; /* what it is laid over; NULL: nothing */
};

FlSource *fl_source_ref(FlSource *source);
void fl_source_unref(FlSource *source); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSource, fl_source_unref)

const char *fl_source_label(const FlSource *source);

/*
 * The exports (FlExportInfo): all that there are, or, with NAME, that one. At least one; a NAME
 * that the source does not have is an error that names those that it has.
 */
GPtrArray *fl_source_exports(FlSource *source, const char *name, const FlWait *wait,
                             GError **error);
/* A connection to the export of INFO, of which it has the size. CONTEXTS (NULL-terminated, may be
 * NULL) are those that it may be asked for, as far as the source has them. */
FlConn *fl_source_open(FlSource *source, const FlExportInfo *info, const char *const *contexts,
                       const FlWait *wait, GError **error);
/* The maps of all contexts of INFO. */
FlDiskMaps *fl_source_load(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                           GError **error);
/* Allows what it takes while it is mounted and when it ends. */
void fl_source_allow(const FlSource *source, FlSandbox *sandbox);
/* Ends what it has started, whoever may have a reference to it yet: nothing is opened from it any
 * more. By the thread that made it. */
void fl_source_close(FlSource *source);

/* For the kinds: a zeroed source of BYTES bytes (the kind's struct) with one reference. LABEL is
 * copied, BELOW taken over. */
FlSource *fl_source_alloc(size_t bytes, const FlSourceOps *ops, const char *label, FlSource *below);
