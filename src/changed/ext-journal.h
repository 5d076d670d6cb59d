/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journal of ext3 and ext4 (JBD2; "Journal (jbd2)" in the kernel's documentation of ext4). If a
 * running guest was not frozen, much of its latest metadata is only there. Private to changed/.
 */
#pragma once

#include "ext-io.h"

#define FL_EXT_JOURNAL_MAGIC "\xc0\x3b\x39\x98"

/* The blocks of a journal. */
typedef struct {
    uint32_t block_size; /* bytes, 1024 or more */
    /* The block of the file system that holds block AT of the journal; 0 if there is none. */
    uint64_t (*place)(void *opaque, uint32_t at);
    /* Reads that block of the file system. */
    bool (*read)(void *opaque, uint64_t block, void *buf);
    void *opaque;
} FlExtJournal;

/* Adds the blocks to OVERLAY that replaying JOURNAL would write. False with an error if the journal
 * cannot be read or parsed; OVERLAY is then incomplete. */
bool fl_ext_journal_replay(const FlExtJournal *journal, FlExtOverlay *overlay, GError **error);
