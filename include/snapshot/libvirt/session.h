/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots by libvirt, among the files that take them.
 *
 * libvirt's pull-mode backup (virDomainBackupBegin) does in one call what QMP takes many for; what
 * is ours is to be found again in a VM by asking: a backup job is ours by the directory of its
 * socket, a checkpoint by its name and description. A checkpoint is pending until its backup is
 * committed, which changes its description in one step; older ones go after that.
 *
 * libvirtd may end and come back at any time while QEMU, the job and its NBD server go on.
 *
 * A VM that is shut off has no server and makes no restore point: the caller serves its images,
 * with the bitmap of the last checkpoint.
 */
#pragma once

#include "snapshot/libvirt/call.h"
#include "snapshot/libvirt/remote.h"
#include "snapshot/libvirt/xml.h"
#include "snapshot/session.h"

typedef struct {
    FlSnapshotDisk disk; /* first */
    char *checkpoint;    /* that the increment is relative to; NULL: full */
    bool point;          /* it takes part in the new checkpoint */
    char *keys;          /* of its images, each after a comma */
    char *witness;       /* of what it holds now, for the checkpoint; NULL: none */
} FlLibvirtDisk;

typedef struct {
    FlSnapshot backup;        /* first */
    char *name;               /* of the domain */
    char *uri;                /* of libvirt; NULL: its default */
    FlRemote *remote;         /* where the VM is; NULL: here */
    virConnectPtr connection; /* NULL while libvirtd is away */
    virDomainPtr domain;      /* the same */
    gint64 away_since;        /* g_get_monotonic_time(); 0: it answered when last it was asked */
    char uuid[VIR_UUID_STRING_BUFLEN]; /* of the domain */
    FlDomain *description;             /* from INSPECT on */
    bool running;                      /* when the session began */
    bool gone;                         /* there is no such domain any more */
    char *scratch;                     /* directory, absolute */
    char *socket; /* path there; its directory, in the above, is ours and has the scratch files */
    int clients;  /* fl_clients_open() of the socket; -1: not to be had, or not yet */
    char *point;  /* name of the new checkpoint; NULL before SNAPSHOT, or if there is none */
    gint64 next_look; /* when the room for scratch is looked at (g_get_monotonic_time()) */
    uint64_t reserve; /* bytes of the scratch file system that the guest cannot have */
    uint64_t total;   /* what the jobs of all disks amount to; 0 before EXPORT */
    bool doubtful;    /* the journal tells of a point that failed, and it may be there still */
    GError *late;     /* what could not be done once the commit was made */

    gint64 frozen_since; /* g_get_monotonic_time() at FREEZE; 0 when the guest is not frozen */
    int frozen;          /* file systems */
    GThread *watchdog;   /* thaws a guest that is frozen for too long */
    FlLibvirtCall *thaw; /* how */
    GMutex lock;
    GCond cond;
    bool thawing;   /* LOCK: the watchdog is to end */
    bool timed_out; /* LOCK: it thawed the guest */
} FlLibvirtSession;

/* host.c: the connection. */
bool fl_libvirt_connect(FlLibvirtSession *session, GError **error);
void fl_libvirt_disconnect(FlLibvirtSession *session);
/*
 * Asks CALL of the domain. While libvirtd is away, or hangs, waits for it until the timeout of the
 * options is over; and for moments only once that has happened, until it has answered again. What
 * was asked is asked again of a libvirtd that has come back.
 */
bool fl_libvirt_ask(FlLibvirtSession *session, FlLibvirtCall *call);
/* The same, but not again. */
bool fl_libvirt_ask_once(FlLibvirtSession *session, FlLibvirtCall *call);
/* Sets an error that ends in what was wrong with CALL; returns false. */
bool fl_libvirt_fail(GError **error, const FlLibvirtCall *call, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
/* 1, 0, or -1 with an error. */
int fl_libvirt_active(FlLibvirtSession *session, GError **error);
char *fl_libvirt_domain_xml(FlLibvirtSession *session, GError **error);

/* owner.c */
/* Why the images of a domain in STATE (virDomainState), for REASON, may be those of another QEMU;
 * NULL if they are not. Pure. */
const char *fl_libvirt_disowned(int state, int reason);
/* Fails if so, or with JOBS, if another job of libvirt is in progress. */
bool fl_libvirt_check_owner(FlLibvirtSession *session, bool jobs, GError **error);

/* images.c: what has to be known of the images of the disks that are wanted: sizes, paths of
 * volumes, whether they have a place for bitmaps. */
void fl_libvirt_find_volumes(FlLibvirtSession *session); /* their paths */
bool fl_libvirt_look_at_images(FlLibvirtSession *session, GError **error);

/* identity.c */
/* Fills in the keys of DISK, whose images are on REMOTE (NULL: here), and whether it has no place
 * for bitmaps. */
void fl_libvirt_find_keys(FlRemote *remote, FlDomainDisk *disk);
/* Those that are noted, each after a comma. */
char *fl_libvirt_join_keys(const FlDomainDisk *disk);
/* Which of the disks of CHECKPOINT the image of DISK was then; NULL if that is none, or not
 * certain. Pure. */
const FlCheckpointDisk *fl_libvirt_recognize(const FlCheckpoint *checkpoint,
                                             const FlDomainDisk *disk);

/* plan.c: what is done with each disk of DOMAIN, from what libvirt says. CHECKPOINTS are of
 * FlCheckpoint; DISCONNECT_KILLS is of this QEMU: fl_snapshot_disconnect_kills(). Of FlLibvirtDisk.
 * Pure. */
GPtrArray *fl_libvirt_plan(const FlDomain *domain, const GPtrArray *checkpoints, bool running,
                           bool disconnect_kills, const FlSnapshotOptions *options,
                           GPtrArray *notes, GError **error);
/* Whether the plan has DISK. */
bool fl_libvirt_is_wanted(const FlDomainDisk *disk, bool running, const FlSnapshotOptions *options);
/* Makes the backup of DISK a full one. Takes REASON. */
void fl_libvirt_make_full(FlLibvirtDisk *disk, char *reason);

/* checkpoint.c. Of FlCheckpoint; one whose commit failed is pending. */
GPtrArray *fl_libvirt_checkpoints(FlLibvirtSession *session, GError **error);
bool fl_libvirt_roll_back(FlSnapshot *backup, GError **error);
bool fl_libvirt_roll_forward(FlSnapshot *backup, GError **error);

bool fl_libvirt_delete_checkpoint(FlLibvirtSession *session, const FlCheckpoint *checkpoint,
                                  GError **error);

bool fl_libvirt_delete_metadata(FlLibvirtSession *session, const char *name, GError **error);
/* Removes the bitmap NAME of the disk TARGET of a VM that runs, which no checkpoint has. False if
 * libvirt does not, or there is none. */
bool fl_libvirt_remove_bitmap(FlLibvirtSession *session, const char *name, const char *target);

/* forget.c */
bool fl_libvirt_forget(FlSnapshot *backup, GError **error);

/* guest.c */
bool fl_libvirt_freeze(FlSnapshot *backup, GError **error);
bool fl_libvirt_thaw(FlSnapshot *backup, GError **error);

/* job.c */
typedef enum {
    FL_LIBVIRT_JOB_NONE,
    FL_LIBVIRT_JOB_OURS, /* of this session, or before there is one, of any */
    FL_LIBVIRT_JOB_OTHER,
    FL_LIBVIRT_JOB_UNKNOWN, /* libvirtd does not answer */
} FlLibvirtJob;

/* Of which FL_LIBVIRT_JOB_UNKNOWN alone has an error. BACKUP (may be NULL) gets what is in
 * progress, if something is. */
FlLibvirtJob fl_libvirt_job(FlLibvirtSession *session, FlDomainBackup **backup, GError **error);

typedef enum {
    FL_LIBVIRT_PROGRESS_NONE,
    FL_LIBVIRT_PROGRESS_CHANGING, /* a backup is being begun, or is ending */
    FL_LIBVIRT_PROGRESS_STEADY,   /* a backup goes on */
    FL_LIBVIRT_PROGRESS_OTHER,    /* another job */
    FL_LIBVIRT_PROGRESS_UNKNOWN,
} FlLibvirtProgress;

/* How a job does, whose ever it is. TOTAL: bytes, constant while all of a backup of ours goes on; 0
 * of others. */
FlLibvirtProgress fl_libvirt_progress(FlLibvirtSession *session, uint64_t *total, GError **error);
/* Whether the guest stands still: because of an I/O error, or for another reason. */
typedef enum { FL_LIBVIRT_RUNS, FL_LIBVIRT_PAUSED, FL_LIBVIRT_STOPPED_BY_ERROR } FlLibvirtState;
FlLibvirtState fl_libvirt_state(FlLibvirtSession *session);
/* Refuses a VM in which something is in progress that is not ours. */
bool fl_libvirt_check_idle(FlLibvirtSession *session, GError **error);
char *fl_libvirt_choose_socket(const FlLibvirtSession *session);
bool fl_libvirt_serve(FlSnapshot *backup, GError **error);
/* What is said of the disks to libvirt; as many as there are. */
FlDomainPart *fl_libvirt_parts(const FlLibvirtSession *session);
/* Each disk that does not go on with its base's identity gets one. */
void fl_libvirt_name_disks(const FlSnapshot *backup);
bool fl_libvirt_snapshot(FlSnapshot *backup, GError **error);
bool fl_libvirt_export(FlSnapshot *backup, GError **error);
/* Fails if another client is connected to the snapshot's NBD server, with which nothing could
 * end. */
bool fl_libvirt_check_clients(FlLibvirtSession *session, GError **error);
bool fl_libvirt_let_go(FlSnapshot *backup, GError **error);
bool fl_libvirt_sweep(FlSnapshot *backup, GError **error);

/* witness.c: compares what is exported with what it was at the base, and makes those full that are
 * not what their bitmaps say; and takes witnesses for the new checkpoint. */
void fl_libvirt_compare(FlLibvirtSession *session);

/* watch.c */
bool fl_libvirt_check_job(FlSnapshot *backup, GError **error);
void fl_libvirt_wait(FlSnapshot *backup, int wake);
bool fl_libvirt_look(FlSnapshot *backup);
void fl_libvirt_scratch_use(const FlSnapshot *backup, const FlSnapshotDisk *disk, uint64_t *used,
                            uint64_t *limit);
