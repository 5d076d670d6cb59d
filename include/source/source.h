/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where disks come from: a server, an image file, or anything else that has exports with maps and
 * data.
 *
 * Blocking functions are called by the set-up thread or a worker, never by the loop, and are
 * bounded by a FlWait. Sources are reference counted and thread-safe; a kind protects its mutable
 * state with its own lock. Errors are FL_ERROR_LOST if a retry may succeed, and FL_ERROR_CHANGED if
 * the source is no longer the same.
 *
 * A kind of source is a folder below src/source/: it embeds FlSource at the start of its own
 * struct, fills in FlSourceOps, and is listed in src/meson.build (see source/kind.h).
 * Operations that a source does not implement go to the source below it.
 */
#pragma once

#include "map/bitmap.h"
#include "map/maps.h"
#include "source/conn.h"
#include "util/budget.h"
#include "util/sandbox.h"

#include <stdint.h>
#include <time.h>

/* Limit, in bytes, of everything that the sources of a mount report about their exports: names,
 * descriptions, contexts and maps. */
#define FL_SOURCE_BUDGET (UINT64_C(1) << 30)

/* What is known about an export before its data is read. */
typedef struct {
    char *name;        /* as the source calls it; "" is the default export */
    char *description; /* NULL if none */
    uint64_t size;     /* bytes */
    uint32_t block_min, block_preferred, block_max; /* read sizes in bytes; see
                                                       fl_export_info_new() */
    bool multi_conn;     /* several connections are allowed, and consistent */
    bool ends_with_last; /* the server may exit after its last connection: keep one open */
    GPtrArray *contexts; /* of char *: meta contexts, in the source's order */

    /* Known to some sources only. */
    GPtrArray *bitmaps;           /* of FlBitmap, sorted by name; some may not be served */
    char **path;                  /* folders in the tree that lead to it, and its own;
                                     NULL-terminated. NULL: one named after it */
    char *format;                 /* of an image file, as QEMU calls it; else NULL */
    struct timespec mtime, ctime; /* of that file; 0: not a file */
    char *backing;                /* ids of its backing files (util/file-id.h); NULL: none */
} FlExportInfo;

/* Creates an info that allows reads at any offset, of up to 32 MiB, on several connections. */
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
    char *(*fault)(FlSource *source, const char *name);
    void (*allow)(const FlSource *source, FlSandbox *sandbox);
    /* Ends what the source started. */
    void (*close)(FlSource *source);
    /* Frees everything but FlSource. */
    void (*clear)(FlSource *source);
} FlSourceOps;

/* Every kind of source starts with this. */
struct FlSource {
    const FlSourceOps *ops;
    gatomicrefcount refs;
    char *label;     /* for messages and info.json; never has a password */
    FlSource *below; /* the source it is layered on; NULL: none */
};

FlSource *fl_source_ref(FlSource *source);
void fl_source_unref(FlSource *source); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSource, fl_source_unref)

const char *fl_source_label(const FlSource *source);

/*
 * Returns the exports (of FlExportInfo): all, or only NAME. Never empty; the error for an unknown
 * NAME lists the existing ones.
 */
GPtrArray *fl_source_exports(FlSource *source, const char *name, const FlWait *wait,
                             GError **error);
/* Connects to the export of INFO; fails if its size differs. CONTEXTS (NULL-terminated, may be
 * NULL) are the meta contexts to negotiate; those that the source lacks are skipped. */
FlConn *fl_source_open(FlSource *source, const FlExportInfo *info, const char *const *contexts,
                       const FlWait *wait, GError **error);
/* Loads the maps of all contexts of INFO. */
FlDiskMaps *fl_source_load(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                           GError **error);
/* Why data read or maps loaded so far of export NAME may be wrong; NULL if no reason is known. Free
 * with g_free(). Also called in the loop whenever data arrives, so it must not block. */
char *fl_source_fault(FlSource *source, const char *name);
/* Allows what the source needs while mounted and when it ends. */
void fl_source_allow(const FlSource *source, FlSandbox *sandbox);
/* Ends what the source started, even if references remain; nothing can be opened from it any more.
 * Call in the thread that created it. */
void fl_source_close(FlSource *source);

/* For implementations: allocates a zeroed source of BYTES bytes (the size of the kind's struct)
 * with one reference. Copies LABEL, takes ownership of BELOW. */
FlSource *fl_source_alloc(size_t bytes, const FlSourceOps *ops, const char *label, FlSource *below);
