/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The values about one disk for status.json and metrics. Private to mount/. */
#pragma once

#include "mount/export.h"

/* A value that does not apply, or is unknown before the maps are loaded. */
#define FL_UNKNOWN UINT64_MAX

typedef struct {
    uint64_t size;
    uint64_t up; /* 0: failed for good, else 1 */
    uint64_t open_files;
    uint64_t connections, in_flight, waiting;
    uint64_t bytes_read, requests, errors, reconnects;
    uint64_t read_rate;                   /* bytes per second, recent */
    uint64_t data_bytes, data_covered;    /* of the whole disk */
    uint64_t dirty_bytes, dirty_covered;  /* of the increment, or of the only bitmap */
    uint64_t wanted_bytes, covered_bytes; /* of a snapshot: what a backup must contain */
    uint64_t pieces_changed,
        pieces_read; /* of a snapshot: changed pieces, and how many of them were read */
    uint64_t scratch_used, scratch_limit;
} FlFigures;

/* Call from the loop. */
void fl_figures_collect(FlFigures *figures, FlExport *export);
