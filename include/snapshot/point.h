/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Restore points: dirty bitmaps on a disk's node that record what was written since a backup.
 *
 * They are called fleecefs.SERIES.ID. ID is the point in time and, but for libvirt, where it stands
 * for all disks of a VM, the size that the disk had then,
 * as "20261121T033659Z-4000000" (UTC, hexadecimal bytes): it is unique, so that a disk that was
 * rolled back to an old image shows an old base, and it tells a disk that was resized, which a
 * bitmap itself does not (QEMU lets it grow and shrink, and forgets what was cut off).
 *
 * A restore point counts from when its backup is committed. Until then a second bitmap stands
 * beside it, fleecefs-pending.SERIES.ID, which records nothing. It is made in the transaction that
 * makes the point, removed in the one that drops the older points, and stored by QEMU together with
 * them; so whether a backup was committed can be read off the disk itself, whatever became of the
 * daemon, of QEMU and of the journal.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>

typedef struct {
    char *series, *id;
    uint64_t size;  /* of the disk, in bytes; 0 if the id does not say */
    gint64 seconds; /* the point in time, since 1970; 0 if the id does not say */
    bool pending;   /* it is the marker, not the point */
} FlPoint;

/* DISK_SIZE 0: without one. */
char *fl_point_id(gint64 seconds, uint64_t disk_size);
char *fl_point_bitmap(const char *series, const char *id);
char *fl_point_marker(const char *series, const char *id);
/* What the bitmap called NAME is for us; NULL if it is not one of ours. */
FlPoint *fl_point_parse(const char *name);
void fl_point_free(FlPoint *point); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlPoint, fl_point_free)

/* A series has 1 to 100 letters, digits, '.', '_' and '-', and starts with none of the last three.
 */
bool fl_series_check(const char *series, GError **error);

/* Whether NAME is that of a bitmap of ours, of SERIES unless that is NULL. */
bool fl_point_is_ours(const char *name, const char *series);
/* Whether NAME is that of a bitmap of ours that says something of restore points, and nothing of the
 * disk. */
bool fl_point_is_note(const char *name);
