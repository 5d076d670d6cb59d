/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots of running VMs: all disks at one point in time, with the changes since the last backup.
 *
 * A snapshot is begun, read through an NBD server in the VM, then either committed, which makes it
 * the base of the next increment, or aborted, which leaves everything as it was. snapshot/machine.h
 * has the order of events.
 *
 * Threads: call begin, watch, commit, abort and free from one thread at a time; they block. From
 * fl_snapshot_watch() until the next of these calls, the session's own thread talks to the VM. The
 * accessors are thread-safe between begin and free. SIGPIPE must be ignored: libvirt may write to a
 * libvirtd that has exited.
 */
#pragma once

#include "map/bitmap.h"
#include "source/image/image.h"
#include "util/error.h"
#include "util/sandbox.h"

#include <stdint.h>
#include <time.h>

/* Strings may be NULL unless noted. Must outlive the session. */
typedef struct {
    const char *source;       /* a provider's source name such as "qmp:PATH"; not NULL */
    const char *mountpoint;   /* for messages; NULL: none */
    const char *const *disks; /* names of nodes or folders; NULL: all writable ones, and read-only
                                 ones with READ_ONLY */
    const char *series;       /* NULL: "last" */
    const char *scratch;      /* directory for blocks that the guest overwrites; NULL: /var/tmp */
    bool scratch_encrypt;     /* encrypt the scratch images */
    /* qmp: socket of the guest agent; NULL: do not freeze. libvirt: the guest is frozen if its
     * agent is connected; any value here makes the agent mandatory. */
    const char *agent;
    bool full;               /* ignore earlier backups */
    bool read_only;          /* include read-only disks, as full backups */
    bool agent_optional;     /* continue without freezing if the agent does not answer */
    unsigned freeze_timeout; /* seconds that the guest may stay frozen; 0: 10 */
    unsigned timeout;        /* seconds for a command to the VM; 0: 30 */
    const GPtrArray *values; /* of FlSourceValue: options of providers; may be NULL */
} FlSnapshotOptions;

/* One disk of the snapshot; belongs to the session. */
typedef struct {
    char *name;         /* of its folder; not encoded */
    char *export_name;  /* on the NBD server */
    char *image;        /* of a VM that is shut off, or of a disk that is not in the job: path of an
                           image to serve instead of an export; else NULL */
    char *image_format; /* of IMAGE, as QEMU calls it; NULL: unknown */
    const FlImageInfo *served; /* of such an image if the server exports it; else NULL */
    uint64_t size;             /* bytes */
    GPtrArray *bitmaps;  /* of FlBitmap, named after the copied bitmap or the series; the increment,
                            if any, comes first */
    char *restore_point; /* the id that becomes the base of the next increment on commit; NULL if
                            the disk cannot have one or the VM is shut off */
    char *base;          /* the id of the increment's base; NULL in full mode */
    char *disk_id;       /* identity of the disk in its series; the same at BASE */
    char *fingerprint;   /* of its contents at BASE (snapshot/fingerprint.h), to compare IMAGE with;
                            NULL: none */
    char *reason;        /* why the mode is full; NULL in incremental mode */

    /* For the session: a write that finds no room would be reported to the guest, so the scratch
     * directory must have room for the whole disk. */
    bool whole_room;
    /* For the session: why the snapshot is lost, and whether the caller was told. */
    char *lost;
    bool told;
    /* For the session, atomic: bytes of the scratch file when last measured. */
    uint64_t scratch_used, scratch_limit;
} FlSnapshotDisk;

/* The VM that owns the disks. UUID and NAME may be NULL. */
typedef struct {
    char *uuid, *name;
    char *source; /* its source name, independent of the working directory */
} FlSnapshotVm;

typedef struct FlSnapshot FlSnapshot;

/*
 * Cleans up what an earlier session left in the VM, takes the snapshot and exports it. Leaves
 * nothing behind on failure. An error about a disk names it and suggests a fix.
 */
FlSnapshot *fl_snapshot_begin(const FlSnapshotOptions *options, GError **error);
/* Without an earlier commit or abort, everything stays in the VM for the next session to clean up.
 * NULL is fine. */
void fl_snapshot_free(FlSnapshot *backup);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSnapshot, fl_snapshot_free)

const GPtrArray *fl_snapshot_disks(const FlSnapshot *backup); /* of FlSnapshotDisk */
const FlSnapshotVm *fl_snapshot_vm(const FlSnapshot *backup);
/* A unique id of the snapshot as a whole, in the format of restore point ids. */
const char *fl_snapshot_id(const FlSnapshot *backup);
/* An O_PATH descriptor of the NBD server's socket, for connect(2) to /proc/self/fd/N; -1 if the
 * server has a URI or the VM is shut off. */
int fl_snapshot_socket(const FlSnapshot *backup);
/* The URI of a server that existed before or is on another host; NULL if it is at the socket. */
const char *fl_snapshot_server_uri(const FlSnapshot *backup);
/* The path of a Unix socket that leads to the server as well, through a relay that passes on only
 * data that is valid: fl_snapshot_ask() would confirm it. NULL: none. It may fail at any time. */
const char *fl_snapshot_relay(const FlSnapshot *backup);
/* Limit of connections to the server of all disks together; 0: no limit. */
unsigned fl_snapshot_max_clients(const FlSnapshot *backup);
/* Allows access to the files and folders that commit and abort write and remove. */
void fl_snapshot_allow(const FlSnapshot *backup, FlSandbox *sandbox);
/* The point in time; snapshots of one VM differ in whole seconds. */
struct timespec fl_snapshot_time(const FlSnapshot *backup);
/* Nanoseconds: the whole of begin; the snapshot itself, which may delay the guest's writes; and how
 * long the guest was frozen, 0 if not at all. */
typedef struct {
    uint64_t begin, held, frozen;
} FlSnapshotTimes;
FlSnapshotTimes fl_snapshot_times(const FlSnapshot *backup);
/* Names of the VM's disks that have data, but cannot be in the snapshot and were not excluded by
 * the options (char *). */
const GPtrArray *fl_snapshot_missing(const FlSnapshot *backup);
/* Remarks for the user about a successful snapshot, one line each; of char *. */
const GPtrArray *fl_snapshot_notes(const FlSnapshot *backup);
/* Bytes that the scratch file of DISK used when last measured, and could use then. Never blocks,
 * even on a slow scratch directory. */
void fl_snapshot_scratch_use(const FlSnapshot *backup, const FlSnapshotDisk *disk, uint64_t *used,
                             uint64_t *limit);

/* Callbacks of a watched session, called in its thread. They must not call blocking functions of
 * the session. */
typedef struct {
    /* The snapshot of DISK (NULL: all disks) is lost. Before this returns, the caller must make
     * further reads fail. WHY is the end of a sentence: "its job ended: ...". */
    void (*lost)(const FlSnapshotDisk *disk, const char *why, void *opaque);
    /* Answers all calls of fl_snapshot_ask() up to NUMBER. KNOWN: all disks not reported as lost
     * had intact snapshots when the VM was queried, which was after fl_snapshot_ask() returned
     * NUMBER. Not KNOWN: the VM did not answer. */
    void (*answered)(uint64_t number, bool known, void *opaque);
} FlSnapshotWatcher;

void fl_snapshot_watch(FlSnapshot *backup, const FlSnapshotWatcher *watcher, void *opaque);

/*
 * Asks whether the snapshots are intact. If they are, data that arrived from the server before the
 * query is valid. Returns a sequence number, one more than the last call. The answer is delivered
 * while the session is watched, within the timeout unless the session is being committed or
 * aborted. Thread-safe, and cheap: at most one query is in flight.
 */
uint64_t fl_snapshot_ask(FlSnapshot *backup);
/*
 * Whether the snapshots of all disks are known to be intact without a query: then data that arrived
 * from the server before this call is valid. Returns false if the VM must be queried. Thread-safe;
 * costs one non-blocking system call.
 */
bool fl_snapshot_is_whole(FlSnapshot *backup);
/* Whether the provider supports fl_snapshot_ask(). */
bool fl_snapshot_can_ask(const FlSnapshot *backup);

/*
 * Close all connections to the NBD server before commit or abort; any others are cut. FL_ERROR_LEFT
 * means success, but something is left for the next session to clean up. After a refused commit the
 * snapshot still exists, and is watched if it was before; after a commit that failed later, it is
 * gone (reported through FlSnapshotWatcher, in the caller's thread) and counts as aborted.
 * Repeating the call that ended a session is fine.
 */
/* Checks that a commit would not be refused; call for each of several snapshots before committing
 * the first. Does not change the snapshot or stop watching it. True for one that has ended. */
bool fl_snapshot_check(FlSnapshot *backup, GError **error);
bool fl_snapshot_commit(FlSnapshot *backup, GError **error);
bool fl_snapshot_abort(FlSnapshot *backup, GError **error);

/* Cleans up after a session that died. REPORT lists what was done, one line each; "" if nothing was
 * left. */
bool fl_snapshot_recover(const FlSnapshotOptions *options, char **report, GError **error);

/* Does the same, then removes all restore points of options->series (NULL: all series) and their
 * notes. Refused while another session has the VM. */
bool fl_snapshot_forget(const FlSnapshotOptions *options, char **report, GError **error);
