/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots by QMP, among the files that take them.
 *
 * A disk's node stays where it is: a backup job with sync=none puts a filter above it that copies
 * what the guest is about to overwrite into a scratch image, whose backing image is the disk; what
 * is exported is the scratch image. Whatever we make in QEMU has a name that begins with
 * FL_QMP_PREFIX, so that it is found by asking, with nothing remembered.
 */
#pragma once

#include "backup/session.h"
#include "backup/vm.h"
#include "qemu/agent.h"
#include "qemu/qmp.h"

/* A VM has one NBD server and one daemon of ours at a time, so a number is all that tells disks
 * apart: fleecefs-0-file, -overlay, -create, -job, -filter, -export. At most 31 bytes. */
#define FL_QMP_PREFIX "fleecefs-"

/* A bitmap to copy, frozen, onto the overlay. */
typedef struct {
    char *source; /* on the disk's node */
    char *name;   /* on the overlay */
    uint64_t granularity;
} FlQmpCopy;

typedef struct {
    FlBackupDisk disk; /* first */
    guint index;
    char *node; /* the disk's */
    char *qdev; /* QOM path, may be NULL */
    bool persistent;
    GPtrArray *copies;   /* of FlQmpCopy, as disk.bitmaps */
    int scratch;         /* the file, without a name; -1 before PREPARE */
    bool near_threshold; /* the file grew past what block-set-write-threshold was told */
} FlQmpDisk;

typedef struct {
    FlBackup backup; /* first */
    FlQmp *qmp;
    char *monitor, *scratch, *agent_path; /* absolute, for daemons change their directory */
    FlJournal *journal;
    char *socket;        /* path of the NBD server's socket; NULL if it is not ours */
    FlAgent *agent;      /* from FREEZE to THAW */
    gint64 frozen_since; /* g_get_monotonic_time() at FREEZE; 0 before */
    uint64_t reserve;    /* bytes of the scratch file system that the guest cannot have */
    unsigned events;     /* that came so far */
    bool gone;           /* QEMU has ended, and everything in it with it */
    bool left;           /* something that the journal tells of could not be ended */
    /* Nodes whose restore point of this series could not be used any more and was removed: its id.
     */
    GHashTable *inconsistent;
} FlQmpSession;

/* "fleecefs-INDEX-PART". */
char *fl_qmp_id(const FlQmpDisk *disk, const char *part);
/* The disk that ID belongs to, if it is its PART; else NULL. */
FlQmpDisk *fl_qmp_find(const FlQmpSession *session, const char *id, const char *part);

/* Milliseconds that a command may take. */
unsigned fl_qmp_timeout(const FlQmpSession *session);
/* A node of ARRAY, which is taken over. */
JsonNode *fl_qmp_array(JsonArray *array);
/* fl_qmp_call() with an error that says what was being done: a sentence's subject, then ": ". */
bool fl_qmp_do(FlQmpSession *session, const char *command, JsonNode *args, JsonNode **reply,
               GError **error, const char *format, ...) G_GNUC_PRINTF(6, 7);
/*
 * Waits until it is worth asking again for what an event would tell of: at once if one has come
 * since SESSION->events was SEEN, which is to be read before asking. Fails when the connection is
 * lost, and with the words given when DEADLINE (in the time of g_get_monotonic_time()) is over.
 */
bool fl_qmp_await(FlQmpSession *session, unsigned seen, gint64 deadline, GError **error,
                  const char *format, ...) G_GNUC_PRINTF(5, 6);
/* Makes sure of a connection, or of QEMU being gone. Fails if it runs and cannot be reached. */
bool fl_qmp_reach(FlQmpSession *session, GError **error);

/* plan.c. What to do with each of DISKS (of FlVmDisk) that is asked for; of FlQmpDisk. NOTES (of
 * char *) gets what a person should know. Pure. */
GPtrArray *fl_qmp_plan(const GPtrArray *disks, const FlBackupOptions *options,
                       GHashTable *inconsistent, GPtrArray *notes, GError **error);
/* The actions of the one transaction, an array for JSON. Needs restore_point of each disk. Pure. */
JsonArray *fl_qmp_snapshot_actions(const GPtrArray *disks, const char *series);

/* guest.c */
bool fl_qmp_freeze(FlQmpSession *session, GError **error);
bool fl_qmp_thaw(FlQmpSession *session, GError **error);

/* scratch.c */
bool fl_qmp_prepare(FlQmpSession *session, GError **error);
/* Lets scratch files that come near their threshold grow further, or, if there is no room for that,
 * loses the disk with the largest. */
void fl_qmp_watch_room(FlQmpSession *session);
/* Gives the space of the scratch file back; the descriptor stays. */
void fl_qmp_empty_scratch(FlQmpDisk *disk);
void fl_qmp_scratch_use(const FlBackup *backup, const FlBackupDisk *disk, uint64_t *used,
                        uint64_t *limit);

/* export.c */
/* Whether anyone listens on the socket at PATH. */
bool fl_qmp_listens(const char *path);
/* A path for the NBD server's socket; nothing is made. */
char *fl_qmp_choose_socket(void);
bool fl_qmp_serve(FlQmpSession *session, GError **error);
bool fl_qmp_stop_server(FlQmpSession *session, GError **error);
bool fl_qmp_export(FlQmpSession *session, GError **error);

/* sweep.c */
bool fl_qmp_sweep(FlQmpSession *session, GError **error);
bool fl_qmp_let_go(FlQmpSession *session, GError **error);
bool fl_qmp_roll_back(FlQmpSession *session, GError **error);
bool fl_qmp_roll_forward(FlQmpSession *session, GError **error);

/* watch.c */
void fl_qmp_on_event(const char *event, JsonObject *data, void *session);
bool fl_qmp_check_jobs(FlQmpSession *session, GError **error);
void fl_qmp_wait(FlBackup *backup, int wake);
bool fl_qmp_look(FlBackup *backup);
