/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What must be known of a VM when the daemon that worked on it is gone.
 *
 * Most of it QEMU itself keeps, by name. The rest is in two small files in the state directory,
 * named after the VM: KEY.lock, locked while a daemon works on it, which also keeps the last point
 * in time and stays; and KEY.journal (JSON), which exists from before anything is made in the VM,
 * but for a mark that says who has it, until all of it is gone.
 *
 * One thread at a time.
 */
#pragma once

#include "util/error.h"

typedef struct FlJournal FlJournal;

/* What is written down. Strings may be NULL. */
typedef struct {
    const char *source; /* the monitor, for people */
    const char *series; /* for people */
    const char *agent;  /* socket of the agent of a guest that may be frozen; NULL if it is not */
    const char *socket; /* where the NBD server that we start in the VM listens; NULL if none is */
    const char *failed; /* restore point that does not count, though it may look committed: nobody
                           knows whether it is, and its commit was said to have failed */
} FlJournalEntry;

/*
 * $FLEECEFS_STATE_DIR, else /var/lib/fleecefs for root, else $XDG_STATE_HOME/fleecefs (by default
 * ~/.local/state/fleecefs). Made if it is not there.
 */
char *fl_state_directory(GError **error);
/* Replaces the file at PATH, in that directory; when this returns true it survives a crash of the
 * host. */
bool fl_state_write(const char *path, const char *text, gssize length, GError **error);

/* Locks KEY (any string) in DIRECTORY. Fails if another process has it. */
FlJournal *fl_journal_open(const char *directory, const char *key, GError **error);
/* Gives the lock back. What is written stays. NULL is fine. */
void fl_journal_close(FlJournal *journal);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlJournal, fl_journal_close)

/* What is written down, by this process or an earlier one; NULL if there is nothing. */
const FlJournalEntry *fl_journal_entry(const FlJournal *journal);
/* Replaces what is written down; when this returns true it survives a crash of the host. */
bool fl_journal_write(FlJournal *journal, const FlJournalEntry *entry, GError **error);
/* The same, with the guest not frozen. */
bool fl_journal_write_thawed(FlJournal *journal, GError **error);
/* The same, with POINT failed. */
bool fl_journal_write_failed(FlJournal *journal, const char *point, GError **error);
bool fl_journal_forget(FlJournal *journal, GError **error);
/* Removes all files of this VM; the lock holds until the journal is closed. */
bool fl_journal_remove(FlJournal *journal, GError **error);

/*
 * Two snapshots must differ in whole seconds, or tools that go by them would skip the second: the
 * second to use at NOW (seconds since 1970), later than the one that was used last unless the clock
 * was set back.
 */
gint64 fl_journal_second(const FlJournal *journal, gint64 now);
/* Counts SECOND as used, which a restore point has that a session with another journal made. */
void fl_journal_saw_second(FlJournal *journal, gint64 second, gint64 now);
bool fl_journal_set_second(FlJournal *journal, gint64 second, GError **error);
