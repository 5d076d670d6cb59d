/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state of the daemon as JSON: .fleecefs/status.json. Call from the loop only. */
#pragma once

#include "mount/tree.h"

typedef struct {
    FlTree *tree;
    FlCache *cache;
    const FlThrottle *throttle;
    const FlViewOptions *options;
    const char *mountpoint;
    char **sources;       /* NULL-terminated */
    char **missing_disks; /* names of disks that the snapshots lack; NULL-terminated */
    const char *series;   /* of snapshots; NULL: no snapshots */
    struct timespec since;
    uint64_t pid_namespace; /* set by fl_status_add() */
    bool sandbox;           /* requested by the user */
    char *sandbox_missing;  /* what the sandbox lacks; NULL: nothing */
} FlStatus;

/* Adds the status files to STATUS->tree; STATUS must outlive it. */
void fl_status_add(FlStatus *status);
