/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is remembered of the pieces of a disk from one backup of a series to the next: small files
 * in the state directory (fleecefs-formats(5), "Notes of pieces"), found by the id of the restore
 * point that they belong to.
 *
 * Those of a new restore point are written before it is committed and stand beside those of the
 * last one, so that there are some for whichever of the two the disk turns out to have; they
 * replace them after that. What is damaged, or of another disk, name or version, counts for
 * nothing.
 */
#pragma once

#include "map/times.h"

/* Whose pieces they are; strings outlive the use. */
typedef struct {
    const char *source; /* what files that others replace are named after */
    const char *series;
    const char *place;   /* under which name tools see the disk; another one is another disk */
    const char *disk_id; /* NULL: not known */
    const char *point;   /* id of the restore point */
} FlPieceNotes;

/* The times noted for NOTES->point. NULL if there are none that count, with WHY (a sentence's end).
 */
FlTimes *fl_piece_notes_load(const FlPieceNotes *notes, const char **why);
/* The disk of NOTES is shown at its place. If another one was there before, for all that is known,
 * notes of that place no longer count: should that one return, tools that compare times with their
 * last run would take what they have seen of this one for what it is. */
void fl_piece_notes_show(const FlPieceNotes *notes);
/* When this returns true they survive a crash of the host. */
bool fl_piece_notes_save(const FlPieceNotes *notes, const FlTimes *times, GError **error);
/* NOTES->point is committed: removes those of all others. */
void fl_piece_notes_settle(const FlPieceNotes *notes);
/* Removes those that SOURCE has left, of SERIES unless that is NULL. */
void fl_piece_notes_forget(const char *source, const char *series);
