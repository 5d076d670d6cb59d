/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the ways to take a snapshot have in common, for them and for backup.c only. Each way is a
 * set of functions that run the actions of backup/machine.h on a VM.
 */
#pragma once

#include "backup/backup.h"
#include "backup/machine.h"

typedef struct {
    /* Connects to the VM and locks it; changes nothing. */
    FlBackup *(*open)(const FlBackupOptions *options, GError **error);
    /* Never called with FL_ACTION_NONE. */
    bool (*run)(FlBackup *backup, FlAction action, GError **error);
    /* Handles events until a disk is newly lost (true) or STOP can be read (false). */
    bool (*wait)(FlBackup *backup, int stop);
    void (*scratch_use)(const FlBackup *backup, const FlBackupDisk *disk, uint64_t *used,
                        uint64_t *limit);
    /* Leaves the VM to others: connections and locks end. Only close follows. */
    void (*release)(FlBackup *backup);
    void (*close)(FlBackup *backup); /* frees BACKUP */
} FlBackupOps;

extern const FlBackupOps fl_qmp_backup_ops;

/* Each way's session starts with this. */
struct FlBackup {
    const FlBackupOps *ops;
    const FlBackupOptions *options;
    FlState state;

    GPtrArray *disks;  /* each starts with FlBackupDisk; filled by INSPECT */
    GPtrArray *notes;  /* of char *: what a person should know */
    GPtrArray *report; /* of char *: what was put back */
    int socket;        /* O_PATH, or -1 */
    struct timespec time;
    uint64_t begin_ns, frozen_ns;

    /* The session's thread. */
    GThread *thread; /* NULL while it does not run */
    int stop;        /* eventfd; -1 before fl_backup_watch() */
    FlBackupLost lost;
    void *opaque;
};

/* The series, by default "last". */
static inline const char *fl_backup_series(const FlBackupOptions *options)
{
    return options->series != NULL ? options->series : "last";
}

/* For open and close: fills in a zeroed session, releases what fl_backup_init() made. */
void fl_backup_init(FlBackup *backup, const FlBackupOps *ops, const FlBackupOptions *options);
void fl_backup_clear(FlBackup *backup);

/* Adds a line to the notes or the report. */
void fl_backup_note(FlBackup *backup, const char *format, ...) G_GNUC_PRINTF(2, 3);
void fl_backup_report(FlBackup *backup, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Says that the snapshot of DISK cannot be trusted any more; the first word counts. */
void fl_backup_lose(FlBackupDisk *disk, const char *format, ...) G_GNUC_PRINTF(2, 3);

void fl_backup_disk_clear(FlBackupDisk *disk);
FlBackupBitmap *fl_backup_bitmap_new(const char *name, uint64_t granularity);
void fl_backup_bitmap_free(gpointer bitmap);
