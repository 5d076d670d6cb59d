/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The XML that libvirt and we exchange (libvirt's formatdomain, formatbackup, formatcheckpoint).
 * What is read is checked; what is written is escaped. Pure.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>

typedef struct {
    char *target;        /* "vda": libvirt's name of the disk */
    char *device;        /* "disk", "cdrom", "floppy", "lun" */
    char *format;        /* of the image: "qcow2"; may be NULL */
    char *path;          /* of the image, a file or block device; NULL if it is another thing */
    char *pool, *volume; /* of libvirt's storage, that the image is; NULL if it is not one. PATH is
                            for the caller to fill in then. */
    char *remote;        /* where the image is if it is not on this host; may be NULL */
    GPtrArray *keys; /* of char *: by which the image and those under it are known; for the caller
                        to fill in */
    bool empty, read_only;
    bool shareable;  /* with other VMs, which may write to it */
    bool transient;  /* what the VM writes to it goes when the VM ends */
    bool vhost_user; /* another process has it, and QEMU no block node of it */
    bool slice;      /* it is a part of the image only */
    bool no_bitmaps; /* the image has no place for bitmaps; for the caller to fill in */
    bool iothread;   /* it runs in one */
    bool reports;    /* a write that fails is reported to the guest (error_policy=) */
    uint64_t size;   /* bytes; for the caller to fill in */

    bool scsi; /* private: its controller is one for SCSI */
} FlDomainDisk;

typedef struct {
    GPtrArray *disks;   /* of FlDomainDisk */
    bool agent;         /* a guest agent is there and answers */
    gint64 user, group; /* that the VM's process runs as; -1 if libvirt does not say */

    bool scsi_iothread; /* private */
} FlDomain;

FlDomain *fl_domain_parse(const char *xml, GError **error);
void fl_domain_free(FlDomain *domain); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlDomain, fl_domain_free)

/* A disk as it was when a checkpoint was made. */
typedef struct {
    uint64_t size;   /* bytes; 0 if that is not known */
    char *disk_id;   /* NULL if that is not known */
    char *witness;   /* of what it held (snapshot/witness.h); NULL: none */
    GPtrArray *keys; /* of char *: of its images, or if they were not noted, "path:" and a file */
} FlCheckpointDisk;

/* A restore point: what libvirt knows of a set of bitmaps that were made together. */
typedef struct {
    char *name;
    bool ours;         /* by its name and description */
    bool pending;      /* ours, and no commit has confirmed it */
    char *parent;      /* the checkpoint before it; NULL: there is none */
    GHashTable *disks; /* of FlCheckpointDisk, by target */
} FlCheckpoint;

/* XML may have the domain in it. */
FlCheckpoint *fl_checkpoint_parse(const char *xml, GError **error);
void fl_checkpoint_free(FlCheckpoint *checkpoint); /* NULL is fine */
/* Of CHECKPOINTS: how many come before CHECKPOINT in its line; whether ANCESTOR does. Clocks tell
 * nothing of that. */
guint fl_checkpoint_depth(const FlCheckpoint *checkpoint, const GPtrArray *checkpoints);
bool fl_checkpoint_descends(const FlCheckpoint *checkpoint, const FlCheckpoint *ancestor,
                            const GPtrArray *checkpoints);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlCheckpoint, fl_checkpoint_free)

/* A backup that is in progress. */
typedef struct {
    char *mode;       /* "pull", "push" */
    char *socket;     /* of its server; NULL if it has none or listens elsewhere */
    char *file;       /* one that it writes; may be NULL */
    GPtrArray *disks; /* of FlDomainExport: those that take part */
} FlDomainBackup;

typedef struct {
    char *target, *export_name, *bitmap; /* the last two may be NULL */
} FlDomainExport;

FlDomainBackup *fl_domain_backup_parse(const char *xml, GError **error);
void fl_domain_backup_free(FlDomainBackup *backup); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlDomainBackup, fl_domain_backup_free)

/* What a backup is to be made of. */
typedef struct {
    const char *target;
    const char *checkpoint;  /* that the increment is relative to; NULL: full */
    const char *export_name; /* on the server; NULL: the disk is left out */
    const char *bitmap;      /* on the server, of the increment */
    bool point;              /* the disk takes part in the new checkpoint */
    uint64_t size;           /* bytes */
    const char *disk_id;     /* goes into the checkpoint */
    const char *keys;        /* the same, each after a comma */
    const char *witness;     /* the same, of one that is confirmed; NULL: none */
} FlDomainPart;

/* A pull backup of PARTS with the server at SOCKET and scratch files in DIRECTORY. */
char *fl_domain_backup_xml(const FlDomainPart *parts, gsize n, const char *socket,
                           const char *directory);
/* The pending checkpoint NAME of PARTS. */
char *fl_checkpoint_xml(const FlDomainPart *parts, gsize n, const char *name);
/* XML of a pending checkpoint, as libvirt returned it, made into that of one of PARTS that is
 * confirmed. */
char *fl_checkpoint_confirm_xml(const char *xml, const FlDomainPart *parts, gsize n,
                                GError **error);
/* The checkpoint NAME of TARGET alone, with the description of the domain that has it, for libvirt
 * to take for one that it made. */
char *fl_checkpoint_redefine_xml(const char *name, const char *target, const char *domain);
