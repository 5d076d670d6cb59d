/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What QEMU says about a VM: its version, its disks, their bitmaps. */
#pragma once

#include "qemu/qmp.h"

#include <stdint.h>

typedef struct {
    char *name;
    uint64_t granularity; /* bytes */
    uint64_t dirty;       /* bytes */
    bool busy, inconsistent;
} FlVmBitmap;

/* A block device with its medium. */
typedef struct {
    char *name;   /* for people and folders: the node's, or where QEMU made that up, the device's */
    char *node;   /* of the top node */
    char *qdev;   /* QOM path of the device; NULL if none is attached */
    char *driver; /* of the top node */
    char *file;   /* name of its image; may be NULL */
    uint64_t size;        /* bytes */
    bool writable;        /* a disk: neither read-only nor removable nor empty */
    const char *left_out; /* why it is not; NULL if it is */
    bool shared;          /* others may write to its image (share-rw=on) */
    bool reports;         /* a write that fails is reported to the guest, which QEMU does not stop
                             as it does else where there is no space (werror=) */
    bool inactive;        /* this QEMU may not write to its image: another one may have it */
    bool persistent;      /* bitmaps outlive QEMU */
    bool has_job;         /* a block job sits on top of it */
    GPtrArray *bitmaps;   /* of FlVmBitmap: the node's, without internal ones */
} FlVmDisk;

typedef struct {
    unsigned major, minor, micro;
} FlVmVersion;

/* Fails if this QEMU lacks what a backup needs. */
bool fl_vm_check(FlQmp *qmp, FlVmVersion *version, GError **error);

/* Whether QEMU is of that version or a newer one; false if it does not say. */
bool fl_vm_is_since(FlQmp *qmp, unsigned major, unsigned minor, unsigned micro);

/* UUID and NAME get what the VM has, NULL where it has none; UUID is one that QEMU was given. */
bool fl_vm_identify(FlQmp *qmp, char **uuid, char **name, GError **error);
/* What identifies the VM on this host: UUID, or if that is NULL, the monitor's socket by whichever
 * of its paths. */
char *fl_vm_key(const char *uuid, const char *monitor);

/* All block devices, also those that are no disks; of FlVmDisk. */
GPtrArray *fl_vm_disks(FlQmp *qmp, GError **error);
/* A disk of which QEMU has no block node. */
FlVmDisk *fl_vm_disk_new_foreign(const char *name);
/* devices.c. Finds out which of DISKS are shared or report, and adds those of which QEMU has no
 * node. */
void fl_vm_look_at_devices(FlQmp *qmp, GPtrArray *disks);
/* The same from the reply to query-block. */
GPtrArray *fl_vm_parse_disks(JsonNode *reply);
/* Whether NODE, of a reply to query-block or query-named-block-nodes, is one that QEMU calls
 * inactive, as from 10.0 on it does while the image is not its own: after a migration to elsewhere,
 * before one from there, or by blockdev-set-active. It does not know the bitmaps of such an image
 * then, so that every backup would be full; and a new one would be lost. */
bool fl_vm_is_inactive(JsonObject *node);
/* Why nothing is done with it, with the name of the disk. */
#define FL_VM_INACTIVE                                                                             \
    "disk %s is inactive in this QEMU, so another one may have its image: back the VM up where "   \
    "it "                                                                                          \
    "runs now; if that is here, resume it, or give the image back (blockdev-set-active)"

/* Whether QDEV (of FlVmDisk) or the controller that it is on runs in an iothread. */
bool fl_vm_in_iothread(FlQmp *qmp, const char *qdev, bool *iothread, GError **error);

/* owner.c: why the images of a QEMU in run state STATE are not its own, with what query-migrate and
 * the capability late-block-activate say; NULL if they are. Pure. */
char *fl_vm_disowned(const char *state, const char *migration, bool late_activation);
/* Why it may soon lose them: a migration is in progress. NULL if none is. Pure. */
char *fl_vm_migrating(const char *migration);
