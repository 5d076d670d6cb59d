/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The XML exchanged with libvirt (see libvirt's formatdomain, formatbackup, formatcheckpoint).
 * Input is validated, output is escaped. Pure.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>

typedef struct {
    char *target;        /* "vda": libvirt's name of the disk */
    char *device;        /* "disk", "cdrom", "floppy", "lun" */
    char *format;        /* of the image: "qcow2"; may be NULL */
    char *path;          /* of the image, if it is a file or block device; else NULL */
    char *pool, *volume; /* of an image in libvirt storage, else NULL; the caller must then fill in
                            PATH */
    char *remote;        /* location of an image that is not on this host; may be NULL */
    GPtrArray *keys;     /* of char *: identify the image and its backing files; filled in by the
                            caller */
    bool empty, read_only;
    bool shareable;  /* other VMs may write to it */
    bool transient;  /* the VM's writes are discarded when it ends */
    bool vhost_user; /* served by another process; QEMU has no block node for it */
    bool slice;      /* it is only a part of the image */
    bool no_bitmaps; /* the image cannot store bitmaps; filled in by the caller */
    bool iothread;   /* it runs in an iothread */
    bool reports;    /* failed writes are reported to the guest (error_policy=) */
    uint64_t size;   /* bytes; filled in by the caller */

    bool scsi; /* private: it is on a SCSI controller */
} FlDomainDisk;

typedef struct {
    GPtrArray *disks;   /* of FlDomainDisk */
    bool agent;         /* the guest agent is connected */
    gint64 user, group; /* of the VM's process; -1 if libvirt does not say */

    bool scsi_iothread; /* private */
} FlDomain;

FlDomain *fl_domain_parse(const char *xml, GError **error);
void fl_domain_free(FlDomain *domain); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlDomain, fl_domain_free)

/* A disk as of a checkpoint. */
typedef struct {
    uint64_t size;     /* bytes; 0 if unknown */
    char *disk_id;     /* NULL if unknown */
    char *fingerprint; /* of its contents (snapshot/fingerprint.h); NULL: none */
    GPtrArray *keys;   /* of char *: of its images or, if those were not stored, "path:" and a
                          file */
} FlCheckpointDisk;

/* A restore point: libvirt's record of a set of bitmaps created together. */
typedef struct {
    char *name;
    bool ours;         /* by its name and description */
    bool pending;      /* ours, and not confirmed by a commit */
    char *parent;      /* the previous checkpoint; NULL: none */
    GHashTable *disks; /* of FlCheckpointDisk, by target */
} FlCheckpoint;

/* XML may include the domain. */
FlCheckpoint *fl_checkpoint_parse(const char *xml, GError **error);
void fl_checkpoint_free(FlCheckpoint *checkpoint); /* NULL is fine */
/* Walk the parents of CHECKPOINT in CHECKPOINTS: how many there are; whether ANCESTOR is one.
 * Timestamps are not reliable for this. */
guint fl_checkpoint_depth(const FlCheckpoint *checkpoint, const GPtrArray *checkpoints);
bool fl_checkpoint_descends(const FlCheckpoint *checkpoint, const FlCheckpoint *ancestor,
                            const GPtrArray *checkpoints);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlCheckpoint, fl_checkpoint_free)

/* A backup in progress. */
typedef struct {
    char *mode;       /* "pull", "push" */
    char *socket;     /* of its server; NULL if it has none or listens elsewhere. */
    bool tcp;         /* the server listens on a port; SOCKET is then derived from the first scratch
                         file, if named like ours */
    char *file;       /* the first file that it writes; may be NULL */
    GPtrArray *disks; /* of FlDomainExport: the participating disks */
} FlDomainBackup;

typedef struct {
    char *target, *export_name, *bitmap; /* the last two may be NULL */
} FlDomainExport;

FlDomainBackup *fl_domain_backup_parse(const char *xml, GError **error);
void fl_domain_backup_free(FlDomainBackup *backup); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlDomainBackup, fl_domain_backup_free)

/* A disk of a new backup. */
typedef struct {
    const char *target;
    const char *checkpoint;  /* base of the increment; NULL: full */
    const char *export_name; /* on the server; NULL: the disk is left out */
    const char *bitmap;      /* name of the increment's bitmap on the server */
    bool point;              /* the disk is part of the new checkpoint */
    uint64_t size;           /* bytes */
    const char *disk_id;     /* stored in the checkpoint */
    const char *keys;        /* stored in the checkpoint, each preceded by a comma */
    const char *fingerprint; /* stored in a confirmed checkpoint; NULL: none */
} FlDomainPart;

/* The address of a backup's server, and the key of its scratch files. */
typedef struct {
    const char *socket;  /* ends in "nbd"; the part before it is the prefix of all files of the
                            backup */
    const char *address; /* the server listens here with TLS, without a socket; NULL: at SOCKET */
    unsigned port;
    const char *secret; /* UUID; NULL: they are not encrypted */
} FlDomainServer;

/* The scratch file of TARGET in a backup whose server is at SOCKET, or has it as placeholder. */
char *fl_domain_scratch(const char *socket, const char *target);
/* XML of a pull-mode backup of PARTS. */
char *fl_domain_backup_xml(const FlDomainPart *parts, gsize n, const FlDomainServer *server);
/* XML of the pending checkpoint NAME of PARTS. */
char *fl_checkpoint_xml(const FlDomainPart *parts, gsize n, const char *name);
/* Turns XML, of a pending checkpoint as returned by libvirt, into the XML of a confirmed checkpoint
 * of PARTS. */
char *fl_checkpoint_confirm_xml(const char *xml, const FlDomainPart *parts, gsize n,
                                GError **error);
/* XML to redefine the checkpoint NAME for the disk TARGET alone, including the XML of its DOMAIN.
 */
char *fl_checkpoint_redefine_xml(const char *name, const char *target, const char *domain);
