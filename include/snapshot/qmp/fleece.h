/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Internal header of the QMP provider.
 *
 * A disk's node stays in place: a backup job with sync=none inserts a filter above it that copies
 * blocks to a scratch image before the guest overwrites them. The scratch image has the disk as its
 * backing image, and is what we export. Everything we create in QEMU has a name that begins with
 * FL_FLEECE_PREFIX, so that it can be found without any saved state.
 */
#pragma once

#include "snapshot/session.h"
#include "snapshot/qmp/vm.h"
#include "qemu/agent.h"
#include "qemu/qmp.h"

/* A VM has one NBD server and one fleecefs daemon at a time, so the disk's index makes names
 * unique: fleecefs-0-file, -overlay, -create, -job, -filter, -export. At most 31 bytes. */
#define FL_FLEECE_PREFIX "fleecefs-"

/* A bitmap whose state is copied to the overlay. */
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
    bool no_point;       /* it does not get a restore point */
    char *binding;       /* of its bitmaps; NULL: the image, which has no backing file */
    bool new_identity;   /* this snapshot creates the disk_id */
    GPtrArray *copies;   /* of FlFleeceCopy, as disk.bitmaps */
    int scratch;         /* the unlinked file; -1 before PREPARE */
    uint64_t reserved;   /* bytes of it allocated on the file system, written or not */
    bool near_threshold; /* the file grew past its block-set-write-threshold */
} FlFleeceDisk;

typedef struct {
    FlSnapshot backup; /* first */
    FlQmp *qmp;
    FlQmpEvent on_event;                  /* called with the session; set before
                                             fl_fleece_connect() */
    char *monitor, *scratch, *agent_path; /* absolute, since daemons change their directory */
    char *socket;                         /* of the NBD server; NULL if the server is not ours */
    FlAgent *agent;                       /* from FREEZE to THAW */
    gint64 frozen_since;                  /* g_get_monotonic_time() at FREEZE; 0 before */
    uint64_t reserve;                     /* bytes of the scratch file system to keep free */
    gint64 next_look;      /* next check of the scratch space (g_get_monotonic_time()) */
    unsigned events;       /* number received so far */
    pid_t direct;          /* QEMU's process, if the monitor's socket is its own; 0: unknown */
    bool confirmed;        /* all snapshots were intact when QEMU was queried, */
    unsigned confirmed_at; /* with this value of EVENTS */
    bool gone;             /* QEMU has exited */
    bool stirred;          /* an event suggests a change of image owner */
    /* Nodes whose restore point of this series was unusable and was removed, with its id. */
    GHashTable *inconsistent;
} FlFleece;

/* "fleecefs-INDEX-PART". */
char *fl_fleece_id(const FlFleeceDisk *disk, const char *part);
/* The disk whose PART has this ID; else NULL. */
FlFleeceDisk *fl_fleece_find(const FlFleece *session, const char *id, const char *part);

/* Timeout of a command, in milliseconds. */
unsigned fl_fleece_timeout(const FlFleece *session);
/* fl_qmp_call() whose error is prefixed with the formatted text and ": ". */
bool fl_fleece_do(FlFleece *session, const char *command, JsonNode *args, JsonNode **reply,
                  GError **error, const char *format, ...) G_GNUC_PRINTF(6, 7);
/* All block nodes, each without details of its child nodes. */
bool fl_fleece_query_nodes(FlFleece *session, JsonNode **reply, GError **error);
/*
 * Waits until an event makes it worth querying again; returns at once if an event came since
 * SESSION->events was SEEN, to be read before the query. Fails if the connection is lost, or with
 * the formatted message at DEADLINE (g_get_monotonic_time()).
 */
bool fl_fleece_await(FlFleece *session, unsigned seen, gint64 deadline, GError **error,
                     const char *format, ...) G_GNUC_PRINTF(5, 6);
/* Whether anyone listens on the socket at PATH. */
bool fl_fleece_listens(const char *path);
/* Connects to the monitor, replacing any existing connection. */
bool fl_fleece_connect(FlFleece *session, GError **error);
/* Ensures that there is a connection or that QEMU has exited. Fails if QEMU runs but cannot be
 * reached. */
bool fl_fleece_reach(FlFleece *session, GError **error);

/* claim.c */
/* Opens this VM's journal: the one for KEY, or one left by another session. Keeps other sessions
 * out of the VM. */
bool fl_fleece_claim(FlFleece *session, const char *directory, const char *key, GError **error);
/* Lets other sessions in, unless the journal lists something left behind. */
void fl_fleece_unclaim(FlFleece *session);

/* owner.c: whether another QEMU owns the images, or may soon. */
/* Sets WHY to the reason, or to NULL if this QEMU owns them. MIGRATING: allow a migration in
 * progress, as long as QEMU still owns the images. Returns false if QEMU does not answer. */
bool fl_fleece_ask_owner(FlFleece *session, bool migrating, char **why, GError **error);
/* The same, with the reason as an error. */
bool fl_fleece_check_owner(FlFleece *session, bool migrating, GError **error);
/* Marks all disks as lost if so. */
void fl_fleece_watch_owner(FlFleece *session);

/* plan.c */
/* Whether a restore point of SERIES on one of DISKS (of FlVmDisk) has fewer dirty bytes than its
 * check bitmap. May be a false positive if the guest writes while QEMU counts: query again. */
bool fl_fleece_seems_cleared(const GPtrArray *disks, const char *series);
/* Plans the backup of each requested disk in DISKS (of FlVmDisk); returns FlFleeceDisk. Adds
 * remarks for the user to NOTES (of char *). Pure. */
GPtrArray *fl_fleece_plan(const GPtrArray *disks, const FlSnapshotOptions *options,
                          GHashTable *inconsistent, GPtrArray *notes, GError **error);
/* Adds the disks that the plan lacks to MISSING: see fl_snapshot_missing(). Pure. */
void fl_fleece_add_missing(const GPtrArray *disks, const FlSnapshotOptions *options,
                           GPtrArray *missing);
/* Names the restore point of DISK, and sets its identity unless it keeps the one of its base. */
void fl_fleece_name_point(FlFleeceDisk *disk, gint64 seconds);
/* The actions of the snapshot transaction as a JSON array; points must be named. Pure. */
JsonArray *fl_fleece_snapshot_actions(const GPtrArray *disks, const char *series);

/* tail.c. Creates the mark for the identity of each disk that gets a new one: a bitmap
 * FL_FLEECE_TAIL, of this granularity, on the disk's node for that part. */
#define FL_FLEECE_TAIL "tail"
uint64_t fl_fleece_tail_granularity(uint64_t size);
bool fl_fleece_add_tails(FlFleece *session, GError **error);
void fl_fleece_drop_tails(FlFleece *session);

/* guest.c */
bool fl_fleece_freeze(FlSnapshot *backup, GError **error);
bool fl_fleece_thaw(FlSnapshot *backup, GError **error);

/* scratch.c. The part name of the secret object that holds the key of an encrypted scratch image.
 */
#define FL_FLEECE_SECRET "secret"
bool fl_fleece_prepare(FlFleece *session, GError **error);
/* Reserves space for what the guest may overwrite until the next check. If there is none, gives up
 * the disk with the largest scratch file. */
void fl_fleece_watch_room(FlFleece *session);
/* Frees the space of the scratch file; keeps the descriptor. */
void fl_fleece_empty_scratch(FlFleeceDisk *disk);
void fl_fleece_scratch_use(const FlSnapshot *backup, const FlSnapshotDisk *disk, uint64_t *used,
                           uint64_t *limit);

/* export.c */
/* Chooses a path for the NBD server's socket; creates nothing. */
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
 * silence.c: infers from QEMU's silence that the snapshots are intact, without a query.
 *
 * A snapshot ends when its job ends or when QEMU gives up its images (owner.c). Suppose that a
 * query found all jobs and the guest running, that no event came since its first command, and that
 * the monitor's socket has nothing to read now. Then all jobs still run and QEMU still owns the
 * images, and both were true when the data that has arrived by now was read:
 *
 * - Before QEMU removes a job's filter, the job becomes "aborting", or "waiting" and "pending",
 *   which emits JOB_STATUS_CHANGE: job_state_transition() in QEMU's job.c, before job_clean().
 * - Before QEMU gives up its images it stops a running guest, which emits STOP (do_vm_stop() in
 *   system/cpus.c). The same holds for a guest that is suspended or has panicked. A guest that is
 *   not running can be migrated without an event, so in that case QEMU is queried each time.
 * - QEMU writes an event to the sockets of all monitors in the thread in which it occurs, before it
 *   continues (monitor_qapi_event_emit() in monitor/monitor.c; neither event is rate-limited). It
 *   can only hold back what does not fit into the socket's buffer, and then there is something to
 *   read.
 * - Data written to a Unix socket is readable at the other end at once. So disk data read after the
 *   event cannot arrive while the monitor's socket is empty.
 *
 * The last point requires that QEMU itself has the other end, not a relay that delays or drops
 * events: the listening process (SO_PEERCRED) must be a QEMU executable. If that cannot be
 * verified, QEMU is queried each time.
 */
/* For a new connection: determines the peer and discards earlier confirmations. */
void fl_fleece_note_peer(FlFleece *session);
/* Records that QEMU, queried since SESSION->events was SEEN, confirmed that all is well. */
void fl_fleece_note_confirmed(FlFleece *session, unsigned seen);
/* The socket for fl_snapshot_set_silent(), or -1. */
int fl_fleece_silent_fd(const FlFleece *session);

/* watch.c */
void fl_fleece_on_event(const char *event, JsonObject *data, void *session);
bool fl_fleece_check_jobs(FlSnapshot *backup, GError **error);
void fl_fleece_wait(FlSnapshot *backup, int wake);
bool fl_fleece_look(FlSnapshot *backup);
