/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Restore points: dirty bitmaps on a disk's node that record what was written since a backup.
 *
 * They are called fleecefs.SERIES.ID. ID is the point in time, for people, and 64 random bits, as
 * "20261121T033659Z-4f0e9a53c17b1102": unique in the world, so that a disk that was rolled back to
 * an old image, changed places or was moved to another VM shows the base that is its own. By qmp:
 * each disk has points of its own; with libvirt one stands for all disks of a VM.
 *
 * A restore point counts from when its backup is committed. Until then a second bitmap stands
 * beside it, fleecefs-pending.SERIES.ID, which records nothing. It is made in the transaction that
 * makes the point, removed in the one that drops the older points, and stored by QEMU together with
 * them; so whether a backup was committed can be read off the disk itself, whatever became of the
 * daemon, of QEMU and of the journal.
 *
 * A third bitmap, by qmp:, fleecefs-disk.SERIES.DISK, records nothing either: its name says which
 * disk it is that the points belong to. DISK is the id of the full backup's point, the disk's size
 * (which the bitmap of the point does not tell, since QEMU lets that grow and shrink) and, where
 * bitmaps are in QEMU's memory only, what they are bound to: "ID-4000000", "ID-4000000-BINDING". It
 * is made with the point of a full backup and lasts as long as the chain.
 *
 * A fourth, by qmp:, fleecefs-check.SERIES.ID, is made with the point and records the same. The two
 * are equal unless somebody cleared the point, for then this one has more; as many dirty bytes in
 * both prove that nothing is lacking, since whatever the point has this one has, too.
 *
 * Earlier versions had ids without random bits, of the time and the size,
 * "20261121T033659Z-4000000" (by libvirt the time alone), and neither third nor fourth bitmap.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>

typedef enum {
    FL_POINT_BASE,    /* fleecefs.SERIES.ID */
    FL_POINT_PENDING, /* fleecefs-pending.SERIES.ID */
    FL_POINT_DISK,    /* fleecefs-disk.SERIES.DISK */
    FL_POINT_CHECK,   /* fleecefs-check.SERIES.ID */
} FlPointKind;

typedef struct {
    FlPointKind kind;
    char *series, *id; /* ID of a FL_POINT_DISK is DISK */
    uint64_t size;     /* of the disk, in bytes; 0 if the name does not say */
    gint64 seconds;    /* the point in time, since 1970; 0 if the name does not say */
    bool unique;       /* the id has random bits */
    char *first;       /* FL_POINT_DISK: the id of the full backup's point */
    char *binding;     /* FL_POINT_DISK: what it is bound to; NULL: to the image that it is in */
} FlPoint;

/* The series of who names none. */
#define FL_SERIES_DEFAULT "last"

/* A new id. */
char *fl_point_id(gint64 seconds);
/* The identity of a disk from the restore point of its full backup on. BINDING may be NULL. */
char *fl_point_disk_id(const char *id, uint64_t size, const char *binding);
/* What bitmaps of a disk in QEMU's memory are bound to. Any of the strings may be NULL. */
char *fl_point_binding(const char *node, const char *device, const char *file);

char *fl_point_bitmap(const char *series, const char *id);
char *fl_point_marker(const char *series, const char *id);
char *fl_point_disk(const char *series, const char *disk_id);
char *fl_point_check(const char *series, const char *id);
/* What the bitmap called NAME is for us; NULL if it is not one of ours. */
FlPoint *fl_point_parse(const char *name);
void fl_point_free(FlPoint *point); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlPoint, fl_point_free)

/* A series has 1 to 100 letters, digits, '.', '_' and '-', and starts with none of the last three.
 */
bool fl_series_check(const char *series, GError **error);

/* Whether NAME is that of a bitmap of ours, of SERIES unless that is NULL. */
bool fl_point_is_ours(const char *name, const char *series);
/* Whether NAME is that of a bitmap of ours that says something of restore points, and nothing of
 * the disk. */
bool fl_point_is_note(const char *name);
