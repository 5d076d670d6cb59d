/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state machine of a backup, from inspecting the VM to removing our last trace from it: a table
 * from (state, event) to (state, actions). It does no I/O: the driver runs the actions of a step in
 * order and feeds back whether they succeeded, until a step has no actions.
 *
 * Invariants on every path (tests/unit/snapshot-machine.c checks them): the journal is written
 * before anything is created in the VM; the guest is frozen only for the transaction, and every
 * FREEZE is followed by a THAW; exports end before the jobs that preserve their data (an export
 * without its job would serve live data); an old restore point is dropped only after all jobs were
 * found running, and never on a path that drops the new one.
 */
#pragma once

#include <stdbool.h>

typedef enum {
    FL_STATE_IDLE,
    FL_STATE_RECOVERING, /* cleaning up after an earlier session */
    FL_STATE_CHECKING,   /* inspecting; nothing is changed */
    FL_STATE_PREPARING,
    FL_STATE_FREEZING,
    FL_STATE_SNAPPING,
    FL_STATE_THAWING,
    FL_STATE_EXPORTING,
    FL_STATE_HELD,      /* the snapshot is readable */
    FL_STATE_SHEDDING,  /* releasing a lost disk; the others stay */
    FL_STATE_LOOKING,   /* checking whether a commit would be refused, before committing any of
                           several snapshots */
    FL_STATE_VERIFYING, /* first step of a commit: the last point at which it can be refused */
    FL_STATE_ENDING,
    FL_STATE_DROPPING, /* the single transaction that commits */
    FL_STATE_CLOSING,
    FL_STATE_UNDOING,
    FL_STATE_COMMITTED, /* final states */
    FL_STATE_ABORTED,
} FlState;
#define FL_N_STATES (FL_STATE_ABORTED + 1)

typedef enum {
    FL_EVENT_BEGIN,
    FL_EVENT_RECOVER,
    FL_EVENT_CHECK,
    FL_EVENT_COMMIT,
    FL_EVENT_ABORT,
    FL_EVENT_LOST,   /* a disk's snapshot is no longer intact */
    FL_EVENT_DONE,   /* all actions of the step succeeded */
    FL_EVENT_FAILED, /* an action failed */
} FlEvent;
#define FL_N_EVENTS (FL_EVENT_FAILED + 1)

typedef enum {
    FL_ACTION_NONE,
    FL_ACTION_INSPECT,      /* find the disks, plan each, refuse what is impossible */
    FL_ACTION_JOURNAL,      /* record what is about to be created */
    FL_ACTION_SERVE,        /* start the NBD server */
    FL_ACTION_PREPARE,      /* create scratch files and overlays */
    FL_ACTION_FREEZE,       /* freeze the guest's filesystems; no-op without an agent */
    FL_ACTION_SNAPSHOT,     /* the transaction over all disks */
    FL_ACTION_THAW,         /* thaw, also if it is unknown whether the guest is frozen */
    FL_ACTION_EXPORT,       /* export the overlays over NBD */
    FL_ACTION_CHECK_JOBS,   /* check that every disk's snapshot is intact */
    FL_ACTION_LET_GO,       /* remove export, job and overlay of each lost disk */
    FL_ACTION_SWEEP,        /* remove all our exports, server, jobs, overlays and files */
    FL_ACTION_ROLL_BACK,    /* drop restore points that no commit confirmed */
    FL_ACTION_ROLL_FORWARD, /* confirm new restore points and drop older ones atomically */
    FL_ACTION_FORGET,       /* remove the journal, unless something it lists is left */
} FlAction;
#define FL_N_ACTIONS (FL_ACTION_FORGET + 1)

#define FL_STEP_ACTIONS 5

typedef struct {
    FlState state;                     /* while the actions run, and after */
    bool all;                          /* run the remaining actions even if one fails */
    FlAction actions[FL_STEP_ACTIONS]; /* up to the first FL_ACTION_NONE */
} FlStep;

/* The step for EVENT in STATE; NULL if EVENT cannot happen there. */
const FlStep *fl_machine_step(FlState state, FlEvent event);

static inline bool fl_machine_is_last(FlState state)
{
    return state == FL_STATE_COMMITTED || state == FL_STATE_ABORTED;
}
