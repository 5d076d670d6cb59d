/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state that must survive the daemon that worked on a VM.
 *
 * QEMU itself keeps most of it, in names. The rest is in two small files in the state directory,
 * named after the VM. KEY.lock is locked while a daemon works on the VM; it also stores the last
 * point in time and, for messages, who holds the lock, and is never removed at the end of a
 * session. KEY.journal (JSON) is written before anything is created in the VM, except for a mark
 * that identifies the owner, and removed once all of it is gone.
 *
 * One thread at a time.
 */
#pragma once

#include "util/error.h"

typedef struct FlJournal FlJournal;

/* The contents of a journal. Strings may be NULL. */
typedef struct {
    const char *source; /* the monitor, for display */
    const char *series; /* for display */
    const char *agent;  /* agent socket of a guest that may be frozen; NULL: not frozen */
    const char *socket; /* where the NBD server that we started in the VM listens; NULL: none */
    const char *failed; /* a restore point to ignore even if it looks committed: its commit was
                           reported as failed, with unknown outcome */
} FlJournalEntry;

/*
 * $FLEECEFS_STATE_DIR, else /var/lib/fleecefs for root, else $XDG_STATE_HOME/fleecefs (by default
 * ~/.local/state/fleecefs). Created if missing.
 */
char *fl_state_directory(GError **error);
/* Replaces the file at PATH, in that directory. On success the file survives a crash of the host.
 */
bool fl_state_write(const char *path, const char *text, gssize length, GError **error);
/* Removes what writers of PATH left that were killed before they were done, at least SECONDS ago.
 * Names of other files in that directory must not be PATH plus a dot and 6 characters. */
bool fl_state_remove_unfinished(const char *path, int seconds, GError **error);

/* Locks KEY (any string) in DIRECTORY. Fails if another process holds the lock; the error names its
 * mount point. MOUNTPOINT: of this process; NULL: none. */
FlJournal *fl_journal_open(const char *directory, const char *key, const char *mountpoint,
                           GError **error);
/* Releases the lock. The files stay. NULL is fine. */
void fl_journal_close(FlJournal *journal);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlJournal, fl_journal_close)

/* The journal's contents, written by this process or an earlier one; NULL if there is none. */
const FlJournalEntry *fl_journal_entry(const FlJournal *journal);
/* Replaces the contents. On success they survive a crash of the host. */
bool fl_journal_write(FlJournal *journal, const FlJournalEntry *entry, GError **error);
/* Records that the guest is not frozen any more. */
bool fl_journal_write_thawed(FlJournal *journal, GError **error);
/* Records POINT as failed. */
bool fl_journal_write_failed(FlJournal *journal, const char *point, GError **error);
bool fl_journal_forget(FlJournal *journal, GError **error);
/* Removes all files of this VM; keeps the lock until the journal is closed. */
bool fl_journal_remove(FlJournal *journal, GError **error);

/*
 * Returns the point in time to use at NOW (seconds since 1970): later than the last one used,
 * unless the clock was set back. Snapshots must differ in whole seconds, since tools that compare
 * times would skip the later one otherwise.
 */
gint64 fl_journal_second(const FlJournal *journal, gint64 now);
/* Marks SECOND as used: it belongs to a restore point made by a session with another journal. */
void fl_journal_saw_second(FlJournal *journal, gint64 second, gint64 now);
bool fl_journal_set_second(FlJournal *journal, gint64 second, GError **error);
