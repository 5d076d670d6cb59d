/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state of the daemon, as text: .fleecefs/status.json. Belongs to the loop. */
#pragma once

#include "mount/tree.h"

typedef struct {
    FlTree *tree;
    FlCache *cache;
    const FlViewOptions *options;
    const char *mountpoint;
    const char *series; /* of snapshots; NULL: there are none */
    struct timespec since;
    uint64_t pid_namespace; /* filled in by fl_status_add() */
    bool sandbox;           /* asked for */
    char *sandbox_missing;  /* NULL: nothing */
} FlStatus;

/* Adds the status files to STATUS->tree; STATUS outlives it. */
void fl_status_add(FlStatus *status);
