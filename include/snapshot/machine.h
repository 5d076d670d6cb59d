/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The course of a backup, from the first look at a VM to the last trace of us in it: a table from
 * (state, event) to (state, actions). No I/O happens here: who drives the machine runs the actions
 * of a step in order and feeds back whether they were done, until a step has none.
 *
 * The promises that the order of the actions keeps, on every path (tests/unit/snapshot-machine.c
 * walks them): a journal exists before anything is made in the VM; the guest is frozen for the
 * transaction only, and every FREEZE is followed by a THAW; exports end before the jobs that keep
 * their data still (an export without its job would serve live data); an old restore point is
 * dropped only when all jobs were found running, and never on a path that drops the new one.
 */
#pragma once

#include <stdbool.h>

typedef enum {
    FL_STATE_IDLE,
    FL_STATE_RECOVERING, /* putting back what an earlier session left */
    FL_STATE_CHECKING,   /* looking; nothing is changed */
    FL_STATE_PREPARING,
    FL_STATE_FREEZING,
    FL_STATE_SNAPPING,
    FL_STATE_THAWING,
    FL_STATE_EXPORTING,
    FL_STATE_HELD,      /* the snapshot can be read */
    FL_STATE_SHEDDING,  /* letting go of a disk that was lost; the others stay */
    FL_STATE_LOOKING,   /* whether a commit would be refused, before any of several is made */
    FL_STATE_VERIFYING, /* of a commit: the last point at which it can be refused */
    FL_STATE_ENDING,
    FL_STATE_DROPPING, /* the one transaction that makes the commit */
    FL_STATE_CLOSING,
    FL_STATE_UNDOING,
    FL_STATE_COMMITTED, /* last states: nothing is left to do */
    FL_STATE_ABORTED,
} FlState;
#define FL_N_STATES (FL_STATE_ABORTED + 1)

typedef enum {
    FL_EVENT_BEGIN,
    FL_EVENT_RECOVER,
    FL_EVENT_CHECK,
    FL_EVENT_COMMIT,
    FL_EVENT_ABORT,
    FL_EVENT_LOST,   /* a disk's snapshot is no longer what it was */
    FL_EVENT_DONE,   /* all actions of the step were done */
    FL_EVENT_FAILED, /* one was not */
} FlEvent;
#define FL_N_EVENTS (FL_EVENT_FAILED + 1)

typedef enum {
    FL_ACTION_NONE,
    FL_ACTION_INSPECT,    /* find the disks, decide what is done with each, refuse what cannot be */
    FL_ACTION_JOURNAL,    /* write down what is about to be made */
    FL_ACTION_SERVE,      /* start the NBD server */
    FL_ACTION_PREPARE,    /* scratch files and overlays */
    FL_ACTION_FREEZE,     /* the guest's filesystems; done at once without an agent */
    FL_ACTION_SNAPSHOT,   /* the transaction over all disks */
    FL_ACTION_THAW,       /* also when it is not known whether the guest is frozen */
    FL_ACTION_EXPORT,     /* the overlays over NBD */
    FL_ACTION_CHECK_JOBS, /* that every disk's snapshot is still whole */
    FL_ACTION_LET_GO,     /* export, job and overlay of each lost disk */
    FL_ACTION_SWEEP,      /* all exports, the server, jobs, overlays and files of ours */
    FL_ACTION_ROLL_BACK,  /* restore points that no commit confirmed */
    FL_ACTION_ROLL_FORWARD, /* confirm the new restore points and drop the older ones, all at once
                             */
    FL_ACTION_FORGET,       /* the journal, unless something that it tells of could not be ended */
} FlAction;
#define FL_N_ACTIONS (FL_ACTION_FORGET + 1)

#define FL_STEP_ACTIONS 5

typedef struct {
    FlState state; /* while the actions run, and after */
    bool all;      /* an action that fails does not keep the rest from running */
    FlAction actions[FL_STEP_ACTIONS]; /* up to the first FL_ACTION_NONE */
} FlStep;

/* What follows when EVENT happens in STATE; NULL if it cannot. */
const FlStep *fl_machine_step(FlState state, FlEvent event);

static inline bool fl_machine_is_last(FlState state)
{
    return state == FL_STATE_COMMITTED || state == FL_STATE_ABORTED;
}
