/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Internal header of the libvirt provider.
 *
 * libvirt's pull-mode backup (virDomainBackupBegin) does in one call what takes many QMP commands.
 * Our objects in a VM can be found by querying libvirt: a backup job is ours by the directory of
 * its socket, a checkpoint by its name and description. A checkpoint is pending until its backup is
 * committed, which changes its description atomically; older checkpoints are deleted after that.
 *
 * libvirtd may exit and be restarted at any time while QEMU, the job and its NBD server keep
 * running.
 *
 * A VM that is shut off has no server and gets no restore point: the caller serves its images with
 * the bitmap of the last checkpoint or, if they are on another host, a storage daemon there does.
 * The caller also serves the images of read-only disks, which libvirt does not back up.
 */
#pragma once

#include "snapshot/libvirt/call.h"
#include "snapshot/libvirt/listen.h"
#include "snapshot/libvirt/remote.h"
#include "snapshot/libvirt/xml.h"
#include "snapshot/session.h"
#include "source/image/image.h"

typedef struct {
    FlSnapshotDisk disk;   /* first */
    char *checkpoint;      /* base of the increment; NULL: full */
    bool point;            /* it is part of the new checkpoint */
    char *keys;            /* of its images, each preceded by a comma */
    char *fingerprint;     /* of its current contents, for the checkpoint; NULL: none */
    FlImage *image;        /* served by the storage daemon on another host; NULL: none */
    GPtrArray *identities; /* of char *: of the files of IMAGE (FlRemoteFile) */
} FlLibvirtDisk;

typedef struct {
    FlSnapshot backup;                 /* first */
    char *name;                        /* of the domain */
    char *uri;                         /* of libvirt; NULL: the default */
    FlRemote *remote;                  /* the VM's host; NULL: this host */
    virConnectPtr connection;          /* NULL while libvirtd is unreachable */
    virDomainPtr domain;               /* the same */
    gint64 away_since;                 /* g_get_monotonic_time(); 0: it answered the last call */
    char uuid[VIR_UUID_STRING_BUFLEN]; /* of the domain */
    FlDomain *description;             /* from INSPECT on */
    bool running;                      /* when the session began */
    bool gone;                         /* the domain no longer exists */
    char *scratch;                     /* directory, absolute */
    char *socket; /* path of the server's socket in SCRATCH or, if the server listens on a port, a
                     placeholder of the same form: server.c */
    char *folder; /* of the storage daemon on another host that serves the images; NULL: none */
    bool serving; /* it has all exports */
    char *secret; /* UUID of the secret that encrypts the scratch files; NULL: none */
    FlListen listen;      /* where the server listens instead of a socket, */
    char *address;        /* and its address from SERVE on; NULL: at the socket */
    int clients;          /* fl_clients_open() of the socket; -1: not available, or not yet */
    char *point;          /* name of the new checkpoint; NULL before SNAPSHOT or if none */
    gint64 next_refresh;  /* next refresh of the scratch files' storage pool
                             (g_get_monotonic_time()) */
    uint64_t pool_room;   /* bytes free at the last refresh, plus those of the scratch files */
    gint64 next_look;     /* next check of the scratch space (g_get_monotonic_time()) */
    uint64_t reserve;     /* bytes of the scratch file system to keep free */
    FlLibvirtProof proof; /* evidence that the job is ours */
    uint64_t total;       /* bytes of all disks' jobs; 0 before EXPORT */
    bool doubtful;        /* the journal lists a failed restore point that may still exist */
    GError *late;         /* what failed after the commit took effect */

    gint64 frozen_since; /* g_get_monotonic_time() at FREEZE; 0 when the guest is not frozen */
    int frozen;          /* file systems */
    GThread *watchdog;   /* thaws a guest that has been frozen for too long */
    FlLibvirtCall *thaw; /* how */
    GMutex lock;
    GCond cond;
    bool freezing;  /* LOCK: the freeze is in progress; the watchdog waits */
    bool thawing;   /* LOCK: the watchdog must exit */
    bool timed_out; /* LOCK: it thawed the guest */
} FlLibvirtSession;

/* host.c: the connection. */
bool fl_libvirt_connect(FlLibvirtSession *session, GError **error);
void fl_libvirt_disconnect(FlLibvirtSession *session);
/*
 * Runs CALL on the domain. While libvirtd is unreachable or hangs, waits for it up to the timeout
 * from the options; after a timeout, waits only briefly until it has answered again. Repeats the
 * call on a libvirtd that has come back.
 */
bool fl_libvirt_ask(FlLibvirtSession *session, FlLibvirtCall *call);
/* The same without repeating the call. */
bool fl_libvirt_ask_once(FlLibvirtSession *session, FlLibvirtCall *call);
/* Sets an error with the formatted text and the error of CALL; returns false. */
bool fl_libvirt_fail(GError **error, const FlLibvirtCall *call, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
/* Whether the domain is running: 1, 0, or -1 with an error. */
int fl_libvirt_active(FlLibvirtSession *session, GError **error);
char *fl_libvirt_domain_xml(FlLibvirtSession *session, GError **error);

/* owner.c */
/* Why another QEMU may own the images of a domain in STATE (virDomainState) for REASON; NULL if
 * none does. Pure. */
const char *fl_libvirt_disowned(int state, int reason);
/* Fails if another QEMU may own the images or, with JOBS, if another libvirt job is in progress. */
bool fl_libvirt_check_owner(FlLibvirtSession *session, bool jobs, GError **error);

/* images.c: properties of the images of the requested disks: sizes, paths of volumes, whether they
 * can store bitmaps. */
void fl_libvirt_find_volumes(FlLibvirtSession *session); /* their paths */
bool fl_libvirt_look_at_images(FlLibvirtSession *session, GError **error);

/* identity.c */
/* Fills in keys and no_bitmaps of DISK, whose images are on REMOTE (NULL: this host). */
void fl_libvirt_find_keys(FlRemote *remote, FlDomainDisk *disk);
/* The keys to store in a checkpoint, each preceded by a comma. */
char *fl_libvirt_join_keys(const FlDomainDisk *disk);
/* The disk of CHECKPOINT that the image of DISK belonged to then; NULL if there is none or it is
 * uncertain. Pure. */
const FlCheckpointDisk *fl_libvirt_recognize(const FlCheckpoint *checkpoint,
                                             const FlDomainDisk *disk);

/* plan.c: plans the backup of each disk of DOMAIN; returns FlLibvirtDisk. CHECKPOINTS are of
 * FlCheckpoint; DISCONNECT_KILLS is fl_snapshot_disconnect_kills() of this QEMU. Adds remarks for
 * the user to NOTES. Pure. */
GPtrArray *fl_libvirt_plan(const FlDomain *domain, const GPtrArray *checkpoints, bool running,
                           bool disconnect_kills, const FlSnapshotOptions *options,
                           GPtrArray *notes, GError **error);
/* Adds the disks that the plan lacks to MISSING: see fl_snapshot_missing(). Pure. */
void fl_libvirt_add_missing(const FlDomain *domain, bool running, const FlSnapshotOptions *options,
                            GPtrArray *missing);
/* Whether DISK is part of the plan. */
bool fl_libvirt_is_wanted(const FlDomainDisk *disk, bool running, const FlSnapshotOptions *options);
/* Makes the backup of DISK a full one. Takes ownership of REASON. */
void fl_libvirt_make_full(FlLibvirtDisk *disk, char *reason);

/* checkpoint.c. Returns FlCheckpoint; one whose commit failed counts as pending. */
GPtrArray *fl_libvirt_checkpoints(FlLibvirtSession *session, GError **error);
bool fl_libvirt_roll_back(FlSnapshot *backup, GError **error);
bool fl_libvirt_roll_forward(FlSnapshot *backup, GError **error);

bool fl_libvirt_delete_checkpoint(FlLibvirtSession *session, const FlCheckpoint *checkpoint,
                                  GError **error);

bool fl_libvirt_delete_metadata(FlLibvirtSession *session, const char *name, GError **error);
/* Removes the bitmap NAME, which belongs to no checkpoint, from the disk TARGET of a running VM.
 * Returns false if libvirt refuses or the bitmap does not exist. */
bool fl_libvirt_remove_bitmap(FlLibvirtSession *session, const char *name, const char *target);

/* forget.c */
bool fl_libvirt_forget(FlSnapshot *backup, GError **error);

/* guest.c */
bool fl_libvirt_freeze(FlSnapshot *backup, GError **error);
bool fl_libvirt_thaw(FlSnapshot *backup, GError **error);

/* server.c */
/* Milliseconds to wait for NBD clients to disconnect while the guest's writes may be delayed. */
#define FL_LIBVIRT_LET_GO_MS 2000

/* Whether SOCKET has the form of paths chosen by fl_libvirt_choose_socket(). Pure. */
bool fl_libvirt_is_our_socket(const char *socket);
char *fl_libvirt_choose_socket(const FlLibvirtSession *session);
bool fl_libvirt_serve(FlSnapshot *backup, GError **error);
bool fl_libvirt_find_server(FlLibvirtSession *session, GError **error);
/*
 * Waits up to TIMEOUT milliseconds until, as far as we can tell, only we are connected to SOCKET,
 * where QEMU's NBD server listens. If a client does not read its replies, QEMU hangs (seen in 7.2
 * and 10.0), and its monitor and libvirt with it, as soon as libvirt ends the job or deletes a
 * checkpoint, until that client disconnects. Such a client cannot be told from others.
 */
bool fl_libvirt_clients_have_left(FlLibvirtSession *session, const char *socket, unsigned timeout,
                                  GError **error);
/* Fails if another client is connected to the snapshot's NBD server, which could block ending it.
 */
bool fl_libvirt_check_clients(FlLibvirtSession *session, GError **error);
/* Removes leftover files of a job whose server was at SOCKET. */
bool fl_libvirt_remove_files(FlLibvirtSession *session, const char *socket, GError **error);

/* elsewhere.c: the images of a VM that is shut off on a host that is reached by ssh. */
/* Serves them. */
bool fl_libvirt_serve_images(FlLibvirtSession *session, GError **error);
/* Marks all disks lost if an image is no longer the same, and restarts the server if it has ended.
 * Fails if that host does not answer, with WAIT within the timeout from the options. */
bool fl_libvirt_keep_images(FlLibvirtSession *session, bool wait, GError **error);
/* Ends the server. */
void fl_libvirt_end_images(FlLibvirtSession *session);

/* secret.c: with -o scratch_encrypt, the scratch files and their key. */
bool fl_libvirt_prepare(FlSnapshot *backup, GError **error);
/* Removes the secret of a job whose server is or was at SOCKET, if there is one. */
bool fl_libvirt_remove_secret(FlLibvirtSession *session, const char *socket, GError **error);

/* pool.c: file operations on a host that is reached only through libvirt. The files are in the
 * folder of one of its storage pools. */
/* Sets ROOM to the free space of the pool whose folder is the scratch directory. Without a scratch
 * directory, uses the folder of the pool "default" as such. */
bool fl_pool_room(FlLibvirtSession *session, uint64_t *room, GError **error);
/* Removes the files whose path begins with STEM. */
bool fl_pool_remove(FlLibvirtSession *session, const char *stem, GError **error);
/* Updates fl_remote_free_room() and fl_remote_used() from the pool. */
void fl_pool_look(FlLibvirtSession *session);

/* job.c */
typedef enum {
    FL_LIBVIRT_JOB_NONE,
    FL_LIBVIRT_JOB_OURS, /* of this session or, before it has one, of any fleecefs session */
    FL_LIBVIRT_JOB_OTHER,
    FL_LIBVIRT_JOB_UNKNOWN, /* libvirtd does not answer */
} FlLibvirtJob;

/* Returns whose backup job is running; sets ERROR only with FL_LIBVIRT_JOB_UNKNOWN. Sets BACKUP
 * (may be NULL) to the job, if there is one. */
FlLibvirtJob fl_libvirt_job(FlLibvirtSession *session, FlDomainBackup **backup, GError **error);

typedef enum {
    FL_LIBVIRT_PROGRESS_NONE,
    FL_LIBVIRT_PROGRESS_CHANGING, /* a backup is starting or ending */
    FL_LIBVIRT_PROGRESS_STEADY,   /* a backup is running */
    FL_LIBVIRT_PROGRESS_OTHER,    /* another job */
    FL_LIBVIRT_PROGRESS_UNKNOWN,
} FlLibvirtProgress;

/*
 * The state of any job. TOTAL: bytes, constant while all disks of our backup are in progress; 0 for
 * other jobs.
 *
 * Data is confirmed by a query that is sent after the data has arrived, so a read takes two round
 * trips. Nothing earlier proves anything: QEMU keeps serving the export after the job, from the
 * live disk, until libvirt removes it, and it reports nothing of this in the NBD connection. A
 * query that is sent with the read may be answered before QEMU reads, since libvirtd and QEMU reply
 * in no common order, and the answer has no time that could be compared. Nor does the absence of an
 * event prove that the job runs: QEMU reports the end to libvirtd, whose event may be under way
 * when data that QEMU sent later arrives. (An idle monitor is proof for QMP because QEMU writes the
 * event to that socket, on this host, before it serves anything else: see snapshot/qmp/fleece.h.)
 *
 * On another host reached by ssh, a relay (relay.py) makes the same query where it takes no round
 * trip. ssh runs it there for the mount, and one NBD connection of each disk goes through it,
 * unless the disk may have only one. What it receives from QEMU it passes on only after a query
 * that it sent after it had received that has been answered well: a backup job with all disks is
 * running and, by a second call after the first has been answered, it is ours. One process does all
 * this in sequence, so the query follows the data by the order of its own calls. The relay does not
 * look at the data: this is true of each byte that QEMU sends, the negotiation included, whatever
 * protocol that leads to. If the answer is another one, or none comes within seconds, it passes on
 * nothing and closes both connections. fleecefs then makes a query itself before it opens another
 * connection, and repeats the read on one without relay, where again a query decides. So whatever
 * happens to the relay costs time only. It is not more trusted than libvirtd: it runs there as the
 * same user.
 */
FlLibvirtProgress fl_libvirt_progress(FlLibvirtSession *session, uint64_t *total, GError **error);
/* Whether the guest is stopped, by an I/O error or for another reason. */
typedef enum { FL_LIBVIRT_RUNS, FL_LIBVIRT_PAUSED, FL_LIBVIRT_STOPPED_BY_ERROR } FlLibvirtState;
FlLibvirtState fl_libvirt_state(FlLibvirtSession *session);
/* Fails if a job that is not ours is in progress in the VM. */
bool fl_libvirt_check_idle(FlLibvirtSession *session, GError **error);
/* The disks of the job as passed to libvirt; sets N to their number. */
FlDomainPart *fl_libvirt_parts(const FlLibvirtSession *session, guint *n);
/* Gives a new identity to each disk that does not keep the one of its base. */
void fl_libvirt_name_disks(const FlSnapshot *backup);
bool fl_libvirt_snapshot(FlSnapshot *backup, GError **error);
bool fl_libvirt_export(FlSnapshot *backup, GError **error);
bool fl_libvirt_let_go(FlSnapshot *backup, GError **error);
bool fl_libvirt_sweep(FlSnapshot *backup, GError **error);

/* fingerprint.c: compares the exports with the fingerprints of their bases, makes the backup of
 * disks whose bitmaps are wrong a full one, and takes fingerprints for the new checkpoint. */
void fl_libvirt_compare(FlLibvirtSession *session);

/* watch.c */
bool fl_libvirt_check_job(FlSnapshot *backup, GError **error);
void fl_libvirt_wait(FlSnapshot *backup, int wake);
bool fl_libvirt_look(FlSnapshot *backup);
void fl_libvirt_scratch_use(const FlSnapshot *backup, const FlSnapshotDisk *disk, uint64_t *used,
                            uint64_t *limit);
