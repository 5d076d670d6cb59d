/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots of running VMs: all disks at one point in time, with what changed since the last
 * backup.
 *
 * A snapshot is begun, read through an NBD server in the VM, and then either committed, which makes
 * it what the next increment is relative to, or aborted, which leaves everything as it was. What
 * happens when is the table of snapshot/machine.h.
 *
 * Threads: begin, watch, commit, abort and free belong to one thread, or to several one after the
 * other, and block. From fl_snapshot_watch() until the next of these calls a thread of the
 * session's own talks to the VM. The accessors may be used by any thread between begin and free.
 * SIGPIPE must be ignored: libvirt writes to a libvirtd that has ended.
 */
#pragma once

#include "map/bitmap.h"
#include "util/error.h"
#include "util/sandbox.h"

#include <stdint.h>
#include <time.h>

/* Strings may be NULL unless said otherwise. Must outlive the session. */
typedef struct {
    const char *source;       /* what a provider takes, as "qmp:PATH"; not NULL */
    const char *const *disks; /* names of nodes or folders; NULL: all writable disks */
    const char *series;       /* NULL: "last" */
    const char *scratch;      /* directory for what the guest overwrites; NULL: /var/tmp */
    /* qmp: socket of the guest agent; NULL: nothing is frozen. libvirt: the guest is frozen if its
     * agent is connected, and with any value here that must be so. */
    const char *agent;
    bool full;               /* as if there were no earlier backup */
    bool agent_optional;     /* without an answer of the agent: go on, not frozen */
    unsigned freeze_timeout; /* seconds that the guest may stay frozen; 0: 10 */
    unsigned timeout;        /* seconds for a command to the VM; 0: 30 */
    const GPtrArray *values; /* of FlSourceValue: options of providers; may be NULL */
} FlSnapshotOptions;

/* One disk of the snapshot; belongs to the session. */
typedef struct {
    char *name;          /* for its folder; not encoded */
    char *export_name;   /* on the NBD server */
    char *image;         /* of a VM that is shut off: path of what to serve in place of an export;
                            else NULL */
    char *image_format;  /* of IMAGE, as QEMU calls it; NULL: not known */
    uint64_t size;       /* bytes */
    GPtrArray *bitmaps;  /* of FlBitmap, named after the bitmap that was copied, or the
                            series: the increment first, if there is one */
    char *restore_point; /* the id that a commit makes the base of the next increment; NULL if the
                            disk cannot have one, and in a VM that is shut off */
    char *base;          /* the id that the increment is relative to; NULL in full mode */
    char *disk_id;       /* what disk it is, in its series: that of BASE has the same */
    char *witness;       /* of what it held at BASE (snapshot/witness.h), for IMAGE to be compared
                            with; NULL: none */
    char *reason;        /* why the mode is full; NULL in incremental mode */

    /* Of the session: its guest would be told that there is no room for a write, so that there has
     * to be scratch room for all of it. */
    bool whole_room;
    /* Of the session: why the snapshot can be trusted no more, and whether the caller knows. */
    char *lost;
    bool told;
    /* Of the session, atomic: bytes of the scratch file as of its last look. */
    uint64_t scratch_used, scratch_limit;
} FlSnapshotDisk;

/* Whose disks they are. UUID and NAME may be NULL. */
typedef struct {
    char *uuid, *name;
    char *source; /* by which it is reached, without a dependence on the working directory */
} FlSnapshotVm;

typedef struct FlSnapshot FlSnapshot;

/*
 * Puts back what an earlier session left in the VM, takes the snapshot and exports it. On failure
 * nothing of it is left. Refusals name the disk and the way out.
 */
FlSnapshot *fl_snapshot_begin(const FlSnapshotOptions *options, GError **error);
/* Without commit or abort before, everything stays in the VM for the next session to put back. NULL
 * is fine. */
void fl_snapshot_free(FlSnapshot *backup);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlSnapshot, fl_snapshot_free)

const GPtrArray *fl_snapshot_disks(const FlSnapshot *backup); /* of FlSnapshotDisk */
const FlSnapshotVm *fl_snapshot_vm(const FlSnapshot *backup);
/* An id like those of restore points, of all disks together: no other snapshot has it. */
const char *fl_snapshot_id(const FlSnapshot *backup);
/* An O_PATH descriptor of the NBD server's socket, which connect(2) reaches as /proc/self/fd/N; -1
 * if there is a URI, or the VM is shut off. */
int fl_snapshot_socket(const FlSnapshot *backup);
/* The URI of a server that was there before, or is on another host; NULL if it is at the socket. */
const char *fl_snapshot_server_uri(const FlSnapshot *backup);
/* The connections that all disks together may have to the server; 0: any number. */
unsigned fl_snapshot_max_clients(const FlSnapshot *backup);
/* Allows the files and folders that commit and abort write and remove. */
void fl_snapshot_allow(const FlSnapshot *backup, FlSandbox *sandbox);
/* The point in time; snapshots of one VM differ in whole seconds. */
struct timespec fl_snapshot_time(const FlSnapshot *backup);
/* Nanoseconds: all that begin took; the snapshot itself, for which the guest's writes may have been
 * held; and for how long the guest was frozen, 0 if it was not. */
typedef struct {
    uint64_t begin, held, frozen;
} FlSnapshotTimes;
FlSnapshotTimes fl_snapshot_times(const FlSnapshot *backup);
/* What a person should know though all went well, one line each; of char *. */
const GPtrArray *fl_snapshot_notes(const FlSnapshot *backup);
/* Bytes that the scratch file of DISK took when the session last looked, and bytes that it might
 * have taken then. Never blocks, however slow the scratch directory is. */
void fl_snapshot_scratch_use(const FlSnapshot *backup, const FlSnapshotDisk *disk, uint64_t *used,
                             uint64_t *limit);

/* What a watched session tells, in its thread. Neither may call a function of the session that
 * blocks. */
typedef struct {
    /* The snapshot of DISK (NULL: of all disks) can be trusted no longer: what is read from then on
     * must fail, before this returns. WHY is a sentence's end: "its job ended: ...". */
    void (*lost)(const FlSnapshotDisk *disk, const char *why, void *opaque);
    /* The answer to fl_snapshot_ask(), all up to NUMBER at once: KNOWN, and then the snapshots of
     * all disks that have not been told to be lost were whole when the VM was asked, which was
     * after fl_snapshot_ask() returned NUMBER; or the VM did not answer. */
    void (*answered)(uint64_t number, bool known, void *opaque);
} FlSnapshotWatcher;

void fl_snapshot_watch(FlSnapshot *backup, const FlSnapshotWatcher *watcher, void *opaque);

/*
 * Asks whether the snapshots are whole. What the server in the VM sends is what it should be if it
 * arrived before that was asked. Returns a number, one more than the last; the answer comes when
 * the session is watched, within the timeout unless it is being committed or aborted. Any thread;
 * cheap, for one question is on its way at a time.
 */
uint64_t fl_snapshot_ask(FlSnapshot *backup);
/*
 * Whether it is known without a question that the snapshots of all disks are whole, and were
 * before: what the server sent, if it had arrived before this was called, is what it should be.
 * False where that has to be asked. Any thread; a system call that does not wait.
 */
bool fl_snapshot_is_whole(FlSnapshot *backup);
/* Whether it can be asked. */
bool fl_snapshot_can_ask(const FlSnapshot *backup);

/*
 * Both want the caller's connections to the NBD server closed; a connection that is not is cut. An
 * error with FL_ERROR_LEFT: it is done, but something is left for the next session to put back.
 * After a commit that was refused the snapshot is still there, and watched if it was; after one
 * that failed later it is gone (FlSnapshotWatcher says so, in the caller's thread) and counts as
 * aborted. To end what has ended in the same way is fine.
 */
/* Before the first of several is committed: whether nothing would refuse this one. It stays as it
 * is, and watched. One that has ended is fine. */
bool fl_snapshot_check(FlSnapshot *backup, GError **error);
bool fl_snapshot_commit(FlSnapshot *backup, GError **error);
bool fl_snapshot_abort(FlSnapshot *backup, GError **error);

/* Puts back what a session that died left. REPORT says what was done, one line each; "" if nothing
 * was left. */
bool fl_snapshot_recover(const FlSnapshotOptions *options, char **report, GError **error);

/* Does the same, and then removes all restore points of options->series, NULL: of all series, and
 * what is noted of them. Refused while another session has the VM. */
bool fl_snapshot_forget(const FlSnapshotOptions *options, char **report, GError **error);
