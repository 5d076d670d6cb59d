/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Views: what a file of the tree contains, as a function of the maps of its disk.
 *
 * A view has a size, and every offset of it is either bytes of the disk, zeros, or bytes made up
 * from the maps. It never does I/O: who reads a file asks the view for its pieces and fetches those
 * that are on the disk. A view is immutable once made and may be used by any thread; it holds
 * references to its maps. Each kind is a file with a constructor.
 *
 * Offsets and lengths are bytes; ranges are half-open.
 */
#pragma once

#include "map/map.h"

typedef enum {
    FL_PIECE_DISK, /* a range of the disk, from disk_offset on */
    FL_PIECE_ZERO, /* a range of the disk that is known to read as zeros: nobody need be asked */
    FL_PIECE_HOLE, /* zeros in place of what the file does not have */
    FL_PIECE_MADE, /* bytes that fl_view_make() makes */
} FlPieceKind;

/* The range [start, end) of a file. */
typedef struct {
    FlPieceKind kind;
    uint64_t start, end;
    uint64_t disk_offset; /* where START is on the disk; of FL_PIECE_DISK and FL_PIECE_ZERO only */
} FlPiece;

typedef struct FlView FlView;

typedef struct {
    /* The piece that holds OFFSET: it starts at OFFSET, and ends where the kind changes or the
     * bytes are no longer contiguous on the disk, or earlier. OFFSET is below the size. */
    FlPiece (*piece)(const FlView *view, uint64_t offset);
    /* Writes LENGTH bytes of a FL_PIECE_MADE range into BUF. NULL where a view has none. */
    void (*make)(const FlView *view, void *buf, size_t length, uint64_t offset);
    /* The first offset at or after OFFSET that is data (DATA) or in a hole (not DATA); the size if
     * there is none: the end counts as a hole. NULL: all is data. OFFSET is below the size. */
    uint64_t (*seek)(const FlView *view, uint64_t offset, bool data);
    void (*clear)(FlView *view); /* releases what the view holds; NULL if nothing */
} FlViewOps;

/* Every kind of view starts with this; the constructors fill it. */
struct FlView {
    const FlViewOps *ops;
    gatomicrefcount refs;
    uint64_t size;       /* of the file */
    uint64_t data_bytes; /* of the file that are no hole: what st_blocks tells */
};

FlView *fl_view_ref(FlView *view);
void fl_view_unref(FlView *view); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlView, fl_view_unref)

/* For constructors: a zeroed view of BYTES bytes (the kind's struct) with one reference. */
FlView *fl_view_alloc(size_t bytes, const FlViewOps *ops);

static inline FlPiece fl_view_piece(const FlView *view, uint64_t offset)
{
    return view->ops->piece(view, offset);
}

/* Writes [OFFSET, OFFSET + LENGTH), which must lie in the piece that fl_view_piece() told. */
void fl_view_make(const FlView *view, void *buf, size_t length, uint64_t offset);

/* lseek(2): the new offset, or -ENXIO at and after the end and where no data follows; DATA tells
 * SEEK_DATA from SEEK_HOLE. */
int64_t fl_view_seek(const FlView *view, int64_t offset, bool data);

/*
 * All of a view into BUF, or a part of it, by a function that reads the disk: the plain read path,
 * for tests and small files. 0 or -errno of READ.
 */
typedef errint_t (*FlReadDisk)(void *opaque, void *buf, size_t length, uint64_t disk_offset);
errint_t fl_view_read(const FlView *view, void *buf, size_t length, uint64_t offset,
                      FlReadDisk read, void *opaque);
