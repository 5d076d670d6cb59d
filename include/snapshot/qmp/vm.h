/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Queries QEMU about a VM: its version, its disks, their bitmaps. */
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
    char *name;       /* for messages and folders: the node's, or if QEMU generated that, the
                         device's */
    char *node;       /* of the top node */
    char *qdev;       /* QOM path of the device; NULL if none is attached */
    char *driver;     /* of the top node */
    char *file;       /* name of its image; may be NULL */
    GPtrArray *below; /* of char *: its backing images and their data files, as QEMU names them */
    char *backing;    /* their ids (util/file-id.h); NULL: none. Set by fl_vm_disks() only */
    uint64_t size;    /* bytes */
    bool writable;    /* a disk: neither read-only nor removable nor empty */
    const char *left_out; /* why it is not writable; NULL if it is */
    bool foreign;         /* its data belongs to another process */
    bool read_only;       /* it has a medium that neither the guest nor QEMU can write to */
    bool shared;          /* others may write to its image (share-rw=on) */
    bool reports;         /* failed writes are reported to the guest, instead of stopping it on
                             ENOSPC (werror=) */
    bool inactive;        /* this QEMU may not write to the image: another one may own it */
    bool persistent;      /* bitmaps outlive QEMU */
    bool has_job;         /* a block job sits on top of it */
    GPtrArray *bitmaps;   /* of FlVmBitmap: the node's, without internal ones */
} FlVmDisk;

typedef struct {
    unsigned major, minor, micro;
} FlVmVersion;

/* Fails if this QEMU lacks what a backup needs. */
bool fl_vm_check(FlQmp *qmp, FlVmVersion *version, GError **error);

/* Whether QEMU has at least this version; false if it does not say. */
bool fl_vm_is_since(FlQmp *qmp, unsigned major, unsigned minor, unsigned micro);

/* Sets UUID and NAME, to NULL if the VM has none; UUID is set only if it was given to QEMU. */
bool fl_vm_identify(FlQmp *qmp, char **uuid, char **name, GError **error);
/* Identifies the VM on this host: UUID or, if NULL, the monitor's socket, whatever path was used.
 */
char *fl_vm_key(const char *uuid, const char *monitor);

/* All block devices, including those that are not disks; of FlVmDisk. */
GPtrArray *fl_vm_disks(FlQmp *qmp, GError **error);
/* A disk without a block node in QEMU. */
FlVmDisk *fl_vm_disk_new_foreign(const char *name);
/* devices.c. Sets shared and reports in DISKS, and adds disks without a block node in QEMU. */
void fl_vm_look_at_devices(FlQmp *qmp, GPtrArray *disks);
/* Parses the reply to query-block; of FlVmDisk. */
GPtrArray *fl_vm_parse_disks(JsonNode *reply);
/* Whether NODE, from a reply to query-block or query-named-block-nodes, is inactive. QEMU 10.0 and
 * later report this while the image is not theirs: after an outgoing migration, before an incoming
 * one finishes, or after blockdev-set-active. QEMU does not know the bitmaps of such an image then:
 * every backup would be full, and new bitmaps would be lost. */
bool fl_vm_is_inactive(JsonObject *node);
/* Error for an inactive disk (argument: its name). */
#define FL_VM_INACTIVE                                                                             \
    "disk %s is inactive in this QEMU, so another one may have its image: back the VM up where "   \
    "it "                                                                                          \
    "runs now; if that is here, resume it, or give the image back (blockdev-set-active)"

/* Sets IOTHREAD to whether QDEV (of FlVmDisk) or its controller runs in an iothread. */
bool fl_vm_in_iothread(FlQmp *qmp, const char *qdev, bool *iothread, GError **error);

/* owner.c: why a QEMU in run state STATE does not own its images, given the status from
 * query-migrate and the capability late-block-activate; NULL if it does. Pure. */
char *fl_vm_disowned(const char *state, const char *migration, bool late_activation);
/* Why QEMU may soon lose its images: a migration is in progress. NULL if none is. Pure. */
char *fl_vm_migrating(const char *migration);
