/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Restore points: dirty bitmaps on a disk's node that record writes since a backup.
 *
 * Their names are fleecefs.SERIES.ID. ID is the point in time, for people, and 64 random bits:
 * "20261121T033659Z-4f0e9a53c17b1102". It is globally unique, so that a disk that was rolled back
 * to an old image, swapped with another or moved to another VM still identifies its own base. With
 * qmp: each disk has its own points; with libvirt: one point covers all disks of a VM.
 *
 * A restore point is valid once its backup is committed. Until then a second bitmap accompanies it,
 * fleecefs-pending.SERIES.ID, which records nothing. It is created in the same transaction as the
 * point, removed in the one that drops the older points, and stored by QEMU together with them. So
 * the disk itself shows whether a backup was committed, whatever happened to the daemon, to QEMU or
 * to the journal.
 *
 * With qmp:, a third bitmap, fleecefs-disk.SERIES.DISK, records nothing either: its name identifies
 * the disk that the points belong to. DISK is the id of the full backup's point, the disk's size
 * (the point's bitmap does not tell, since QEMU resizes it with the disk) and, if bitmaps exist
 * only in QEMU's memory, what they are bound to: "ID-4000000", "ID-4000000-BINDING". It is created
 * with the point of a full backup and lasts as long as the chain.
 *
 * With qmp:, a fourth bitmap, fleecefs-check.SERIES.ID, is created with the point and records the
 * same writes. It always contains all that the point contains, and more if the point was cleared.
 * So equal counts of dirty bytes prove that the point is complete.
 *
 * Earlier versions used ids of time and size without random bits, "20261121T033659Z-4000000" (with
 * libvirt: only the time), and had neither the third nor the fourth bitmap.
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
    char *series, *id; /* ID is DISK for a FL_POINT_DISK */
    uint64_t size;     /* of the disk, in bytes; 0 if the name does not say */
    gint64 seconds;    /* the point in time, since 1970; 0 if the name does not say */
    bool unique;       /* the id has random bits */
    char *first;       /* FL_POINT_DISK: the id of the full backup's point */
    char *binding;     /* FL_POINT_DISK: what it is bound to; NULL: to the image that contains it */
} FlPoint;

/* The default series. */
#define FL_SERIES_DEFAULT "last"

/* A new id. */
char *fl_point_id(gint64 seconds);
/* The identity of a disk whose full backup has restore point ID. BINDING may be NULL. */
char *fl_point_disk_id(const char *id, uint64_t size, const char *binding);
/* The binding of bitmaps that exist only in QEMU's memory. Any of the strings may be NULL. */
char *fl_point_binding(const char *node, const char *device, const char *file);
/* The binding of bitmaps in an image whose backing files have the ids BACKING (fl_file_ids()); NULL
 * if BACKING is NULL. */
char *fl_point_backing_binding(const char *backing);
/* Why a restore point (argument: its id) with another such binding is unusable. */
#define FL_POINT_BACKING_CHANGED "the backing image changed or was replaced since restore point %s"

char *fl_point_bitmap(const char *series, const char *id);
char *fl_point_marker(const char *series, const char *id);
char *fl_point_disk(const char *series, const char *disk_id);
char *fl_point_check(const char *series, const char *id);
/* Parses the bitmap name NAME; NULL if it is not one of ours. */
FlPoint *fl_point_parse(const char *name);
void fl_point_free(FlPoint *point); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlPoint, fl_point_free)

/* Checks the name of a series: 1 to 100 letters, digits, '.', '_' and '-', starting with a letter
 * or digit. */
bool fl_series_check(const char *series, GError **error);

/* Whether NAME is the name of one of our bitmaps, of SERIES unless NULL. */
bool fl_point_is_ours(const char *name, const char *series);
/* Whether NAME is the name of one of our bitmaps that only describe restore points, not the disk's
 * contents. */
bool fl_point_is_note(const char *name);
