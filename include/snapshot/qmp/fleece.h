/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots by QMP, among the files that take them.
 *
 * A disk's node stays where it is: a backup job with sync=none puts a filter above it that copies
 * what the guest is about to overwrite into a scratch image, whose backing image is the disk; what
 * is exported is the scratch image. Whatever we make in QEMU has a name that begins with
 * FL_FLEECE_PREFIX, so that it is found by asking, with nothing remembered.
 */
#pragma once

#include "snapshot/session.h"
#include "snapshot/qmp/vm.h"
#include "qemu/agent.h"
#include "qemu/qmp.h"

/* A VM has one NBD server and one daemon of ours at a time, so a number is all that tells disks
 * apart: fleecefs-0-file, -overlay, -create, -job, -filter, -export. At most 31 bytes. */
#define FL_FLEECE_PREFIX "fleecefs-"

/* A bitmap to copy, frozen, onto the overlay. */
typedef struct {
    char *source; /* on the disk's node */
    char *name;   /* on the overlay */
    uint64_t granularity;
} FlFleeceCopy;

typedef struct {
    FlSnapshotDisk disk; /* first */
    guint index;
    char *node; /* the disk's */
    char *qdev; /* QOM path, may be NULL */
    bool persistent;
    bool shared;         /* it gets no restore point */
    char *binding;       /* of its bitmaps; NULL: to the image */
    bool new_identity;   /* the disk_id is one that the snapshot makes */
    GPtrArray *copies;   /* of FlFleeceCopy, as disk.bitmaps */
    int scratch;         /* the file, without a name; -1 before PREPARE */
    uint64_t reserved;   /* bytes of it that have room on its file system, written or not */
    bool near_threshold; /* the file grew past what block-set-write-threshold was told */
} FlFleeceDisk;

typedef struct {
    FlSnapshot backup; /* first */
    FlQmp *qmp;
    FlQmpEvent on_event;                  /* gets the session; set before fl_fleece_connect() */
    char *monitor, *scratch, *agent_path; /* absolute, for daemons change their directory */
    char *socket;        /* path of the NBD server's socket; NULL if it is not ours */
    FlAgent *agent;      /* from FREEZE to THAW */
    gint64 frozen_since; /* g_get_monotonic_time() at FREEZE; 0 before */
    uint64_t reserve;    /* bytes of the scratch file system that the guest cannot have */
    gint64 next_look;    /* when the room for scratch is looked at (g_get_monotonic_time()) */
    unsigned events;     /* that came so far */
    pid_t direct;        /* QEMU's process, if the monitor's socket is its own; 0: not known */
    bool vouched;        /* all was well when QEMU was asked, */
    unsigned vouched_at; /* and EVENTS was this */
    bool gone;           /* QEMU has ended, and everything in it with it */
    bool stirred;        /* an event says that this may have begun */
    /* Nodes whose restore point of this series could not be used any more and was removed: its id.
     */
    GHashTable *inconsistent;
} FlFleece;

/* "fleecefs-INDEX-PART". */
char *fl_fleece_id(const FlFleeceDisk *disk, const char *part);
/* The disk that ID belongs to, if it is its PART; else NULL. */
FlFleeceDisk *fl_fleece_find(const FlFleece *session, const char *id, const char *part);

/* Milliseconds that a command may take. */
unsigned fl_fleece_timeout(const FlFleece *session);
/* fl_qmp_call() with an error that says what was being done: a sentence's subject, then ": ". */
bool fl_fleece_do(FlFleece *session, const char *command, JsonNode *args, JsonNode **reply,
                  GError **error, const char *format, ...) G_GNUC_PRINTF(6, 7);
/* All block nodes, each without what it tells of those below it. */
bool fl_fleece_query_nodes(FlFleece *session, JsonNode **reply, GError **error);
/*
 * Waits until it is worth asking again for what an event would tell of: at once if one has come
 * since SESSION->events was SEEN, which is to be read before asking. Fails when the connection is
 * lost, and with the words given when DEADLINE (in the time of g_get_monotonic_time()) is over.
 */
bool fl_fleece_await(FlFleece *session, unsigned seen, gint64 deadline, GError **error,
                     const char *format, ...) G_GNUC_PRINTF(5, 6);
/* Whether anyone listens on the socket at PATH. */
bool fl_fleece_listens(const char *path);
/* Connects to the monitor, anew if there is a connection. */
bool fl_fleece_connect(FlFleece *session, GError **error);
/* Makes sure of a connection, or of QEMU being gone. Fails if it runs and cannot be reached. */
bool fl_fleece_reach(FlFleece *session, GError **error);

/* claim.c */
/* Opens the journal of this VM, the one of KEY unless another session left one, and keeps others
 * out of the VM. */
bool fl_fleece_claim(FlFleece *session, const char *directory, const char *key, GError **error);
/* Lets others in, unless the journal has something that is left. */
void fl_fleece_unclaim(FlFleece *session);

/* owner.c: whether another QEMU has the images, or may soon have. */
/* WHY gets the reason, or NULL if they are this one's. MIGRATING: a migration that is in progress
 * is none, while QEMU has them still. False if QEMU does not answer. */
bool fl_fleece_ask_owner(FlFleece *session, bool migrating, char **why, GError **error);
/* The same as an error. */
bool fl_fleece_check_owner(FlFleece *session, bool migrating, GError **error);
/* Loses all disks if so. */
void fl_fleece_watch_owner(FlFleece *session);

/* plan.c */
/* Whether a restore point of SERIES on one of DISKS (of FlVmDisk) lacks what was recorded beside
 * it. A guest that writes while QEMU counts makes it seem so, too: look again. */
bool fl_fleece_seems_cleared(const GPtrArray *disks, const char *series);
/* What to do with each of DISKS (of FlVmDisk) that is asked for; of FlFleeceDisk. NOTES (of
 * char *) gets what a person should know. Pure. */
GPtrArray *fl_fleece_plan(const GPtrArray *disks, const FlSnapshotOptions *options,
                          GHashTable *inconsistent, GPtrArray *notes, GError **error);
/* Gives DISK its restore point, and an identity unless it goes on with the one of its base. */
void fl_fleece_name_point(FlFleeceDisk *disk, gint64 seconds);
/* The actions of the one transaction, an array for JSON, once points are named. Pure. */
JsonArray *fl_fleece_snapshot_actions(const GPtrArray *disks, const char *series);

/* tail.c. Makes what the identity of each disk that is to get one is to be marked with: a bitmap
 * FL_FLEECE_TAIL on a node of that part, of this granularity. */
#define FL_FLEECE_TAIL "tail"
uint64_t fl_fleece_tail_granularity(uint64_t size);
bool fl_fleece_add_tails(FlFleece *session, GError **error);
void fl_fleece_drop_tails(FlFleece *session);

/* guest.c */
bool fl_fleece_freeze(FlSnapshot *backup, GError **error);
bool fl_fleece_thaw(FlSnapshot *backup, GError **error);

/* scratch.c */
bool fl_fleece_prepare(FlFleece *session, GError **error);
/* Reserves room for what the guest may overwrite until the next look, or, if there is none, loses
 * the disk with the largest scratch file. */
void fl_fleece_watch_room(FlFleece *session);
/* Gives the space of the scratch file back; the descriptor stays. */
void fl_fleece_empty_scratch(FlFleeceDisk *disk);
void fl_fleece_scratch_use(const FlSnapshot *backup, const FlSnapshotDisk *disk, uint64_t *used,
                           uint64_t *limit);

/* export.c */
/* A path for the NBD server's socket; nothing is made. */
char *fl_fleece_choose_socket(void);
bool fl_fleece_serve(FlSnapshot *backup, GError **error);
bool fl_fleece_stop_server(FlFleece *session, GError **error);
bool fl_fleece_export(FlFleece *session, GError **error);

/* sweep.c */
bool fl_fleece_sweep(FlSnapshot *backup, GError **error);
bool fl_fleece_let_go(FlSnapshot *backup, GError **error);

/* points.c */
bool fl_fleece_roll_back(FlSnapshot *backup, GError **error);
bool fl_fleece_roll_forward(FlSnapshot *backup, GError **error);
bool fl_fleece_forget(FlSnapshot *backup, GError **error);

/*
 * silence.c: what is known of the snapshots without a question, from QEMU having said nothing.
 *
 * What ends a snapshot is the end of its job, or that QEMU gives its images away (owner.c). Suppose
 * that a look has found all jobs and the guest to be running, and that since its first question no
 * event came and there is none to be read from the monitor's socket now. Then all jobs still run,
 * and the images are still QEMU's own, and were when whatever has arrived by now was read:
 *
 * - Before QEMU takes a job's filter away, the job becomes "aborting", or "waiting" and "pending",
 *   and JOB_STATUS_CHANGE says so: job_state_transition() in QEMU's job.c, before job_clean().
 * - Before QEMU gives its images away it stops a guest that runs, and STOP says so (do_vm_stop() in
 *   system/cpus.c). One that is suspended or has panicked is told of as well. A guest that does not
 *   run can be migrated without a word, and so it is asked for each time.
 * - QEMU writes an event to the sockets of all monitors in the thread in which it happens, before
 *   it goes on (monitor_qapi_event_emit() in monitor/monitor.c; neither of these events is one that
 *   it may hold back). It can only keep what does not fit into the socket's buffer, and then there
 *   is something to be read.
 * - What was written to a Unix socket can be read at the other end at once, so that a byte of the
 *   disk which was read later than that cannot arrive while the monitor's socket is empty.
 *
 * The last is true only if QEMU itself has the other end, and no relay that takes its time, or
 * drops events: the process that listened there (SO_PEERCRED) has to be an executable of QEMU's. If
 * that cannot be seen, each time is asked.
 */
/* A new connection: whose it is, and that nothing is known by it. */
void fl_fleece_note_peer(FlFleece *session);
/* QEMU said that all is well, when asked since SESSION->events was SEEN. */
void fl_fleece_vouch(FlFleece *session, unsigned seen);
/* The socket for fl_snapshot_set_silent(), or -1. */
int fl_fleece_silent_fd(const FlFleece *session);

/* watch.c */
void fl_fleece_on_event(const char *event, JsonObject *data, void *session);
bool fl_fleece_check_jobs(FlSnapshot *backup, GError **error);
void fl_fleece_wait(FlSnapshot *backup, int wake);
bool fl_fleece_look(FlSnapshot *backup);
