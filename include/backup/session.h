/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the ways to take a snapshot have in common, for them and for backup.c only. Each way is a
 * set of functions that run the actions of backup/machine.h on a VM.
 */
#pragma once

#include "backup/backup.h"
#include "backup/journal.h"
#include "backup/machine.h"

typedef struct {
    /* Connects to the VM and locks it; changes nothing. */
    FlBackup *(*open)(const FlBackupOptions *options, GError **error);
    /* Never called with FL_ACTION_NONE. */
    bool (*run)(FlBackup *backup, FlAction action, GError **error);
    /* Handles events until a disk is newly lost or the descriptor WAKE can be read. */
    void (*wait)(FlBackup *backup, int wake);
    /* Asks the VM now, and loses each disk whose snapshot is not whole. False if it does not
     * answer. NULL: there is no way to ask. */
    bool (*look)(FlBackup *backup);
    void (*scratch_use)(const FlBackup *backup, const FlBackupDisk *disk, uint64_t *used,
                        uint64_t *limit);
    /* Allows what talking to the VM takes beside sockets. May be NULL. */
    void (*allow)(FlFence *fence);
    /* Leaves the VM to others: connections and locks end. Only close follows. */
    void (*release)(FlBackup *backup);
    void (*close)(FlBackup *backup); /* frees BACKUP */
} FlBackupOps;

extern const FlBackupOps fl_fleece_backup_ops, fl_libvirt_backup_ops;

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
    FlBackupTimes times;

    /* The session's thread. */
    GThread *thread; /* NULL while it does not run */
    int wake;        /* eventfd: that one of the next two has changed */
    GMutex lock;
    bool stop;                      /* LOCK */
    uint64_t asked;                 /* LOCK */
    uint64_t answered;              /* of asked; the thread's */
    const FlBackupWatcher *watcher; /* NULL before fl_backup_watch() */
    void *opaque;
};

/* The series, by default "last". */
static inline const char *fl_backup_series(const FlBackupOptions *options)
{
    return options->series != NULL ? options->series : "last";
}

/* Milliseconds that the guest may stay frozen. */
static inline unsigned fl_backup_freeze_limit(const FlBackupOptions *options)
{
    return (options->freeze_timeout != 0 ? MIN(options->freeze_timeout, 3600) : 10) * 1000;
}

/* For open and close: fills in a zeroed session, releases what fl_backup_init() made. */
void fl_backup_init(FlBackup *backup, const FlBackupOps *ops, const FlBackupOptions *options);
void fl_backup_clear(FlBackup *backup);

/* Adds a line to the notes or the report. */
void fl_backup_note(FlBackup *backup, const char *format, ...) G_GNUC_PRINTF(2, 3);
void fl_backup_report(FlBackup *backup, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Says that the snapshot of DISK, or of all disks, cannot be trusted any more; the first word
 * counts. */
void fl_backup_lose(FlBackupDisk *disk, const char *format, ...) G_GNUC_PRINTF(2, 3);
void fl_backup_lose_all(FlBackup *backup, const char *why);
/* Whether the caller has yet to be told of a disk. */
bool fl_backup_newly_lost(const FlBackup *backup);
/* For a commit: fails if a disk is lost. */
bool fl_backup_none_lost(const FlBackup *backup, GError **error);

/* Makes now the point in time, or the next second that no snapshot had yet; returns the second. */
gint64 fl_backup_set_time(FlBackup *backup, const FlJournal *journal);

/* Bytes free in the scratch directory at PATH. */
bool fl_backup_free_room(const char *path, uint64_t *room, GError **error);
/*
 * Refuses what would not last; a note says if the disks could fill it. RESERVE: bytes that are to
 * stay free, so that the guest's next writes find some; when less is left, a snapshot must go.
 */
bool fl_backup_check_room(FlBackup *backup, const char *path, uint64_t *reserve, GError **error);

void fl_backup_disk_clear(FlBackupDisk *disk);
FlBackupBitmap *fl_backup_bitmap_new(const char *name, uint64_t granularity);
void fl_backup_bitmap_free(gpointer bitmap);
