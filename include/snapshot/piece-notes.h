/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Times of a disk's pieces, kept from one backup of a series to the next in small files in the
 * state directory (fleecefs-formats(5), "Notes of pieces"), keyed by restore point id.
 *
 * The notes of a new restore point are written before it is committed, next to those of the
 * previous one, so that notes exist for whichever point the disk ends up with. After the commit
 * they replace the older ones. Notes that are damaged or belong to another disk, name or version
 * are ignored.
 */
#pragma once

#include "map/times.h"

/* Identifies the pieces; strings must outlive the use. */
typedef struct {
    const char *source; /* names the files that are replaced later */
    const char *series;
    const char *place;   /* the name under which tools see the disk; another name is another disk */
    const char *disk_id; /* NULL: unknown */
    const char *point;   /* id of the restore point or, if there will be none, of the snapshot */
} FlPieceNotes;

/* The times noted for NOTES->point; NULL if there are no valid ones, with the reason in WHY (the
 * end of a sentence). ANY_SOURCE: they may be of another source, for an image whose VM saved them.
 * Only the seconds of one source are unique: tools may have seen another disk in the place of
 * NOTES, with the same times. So a snapshot, which saves notes of its own, must not ask for this,
 * and notes that share a second with those of a third source for that place are not valid. */
FlTimes *fl_piece_notes_load(const FlPieceNotes *notes, bool any_source, const char **why);
/* Whether the place of NOTES has notes, but none of its disk and series: tools may have seen
 * another disk there. Only one disk and series at a time may have notes for a place, so no more are
 * saved unless its pieces are shown, which fl_piece_notes_take_over() must precede. */
bool fl_piece_notes_foreign(const FlPieceNotes *notes);
/* Whether the place and series of NOTES have notes, of any disk. */
bool fl_piece_notes_exist(const FlPieceNotes *notes);
/* Removes all notes of the place of NOTES: if the disk that they belong to returned, tools that
 * compare times with their last run would mistake what they saved of this disk for its contents. */
void fl_piece_notes_take_over(const FlPieceNotes *notes);
/* The times in all other valid notes of the disk in NOTES (of FlTimes): those of snapshots since
 * NOTES->point that were shown but not committed, unless the disk was rolled back to an older
 * state. ANY_SOURCE: also those of other sources. */
GPtrArray *fl_piece_notes_others(const FlPieceNotes *notes, bool any_source);
/* Saves TIMES. On success they survive a crash of the host. */
bool fl_piece_notes_save(const FlPieceNotes *notes, const FlTimes *times, GError **error);
/* Removes the notes of all points but NOTES->point, which is committed or, if BASE is not NULL, was
 * only shown; keeps those of BASE. */
void fl_piece_notes_settle(const FlPieceNotes *notes, const char *base);
/* Removes the notes of SOURCE, only those of SERIES unless NULL. */
void fl_piece_notes_forget(const char *source, const char *series);
