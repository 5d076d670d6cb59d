/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ext-journal.h"

#include <string.h>

/* Offsets in the superblock; all numbers in a journal are big-endian. */
enum {
    SB_BLOCK_SIZE = 12,
    SB_BLOCKS = 16,
    SB_FIRST = 20,
    SB_SEQUENCE = 24,
    SB_START = 28,
    SB_INCOMPAT = 40,
    SB_FAST_BLOCKS = 84,
};
#define HEADER_SIZE 12

enum { BLOCK_DESCRIPTOR = 1, BLOCK_COMMIT = 2, BLOCK_SUPER_V2 = 4, BLOCK_REVOKE = 5 };
enum {
    INCOMPAT_64BIT = 0x2,
    INCOMPAT_CSUM_V2 = 0x8,
    INCOMPAT_CSUM_V3 = 0x10,
    INCOMPAT_FAST = 0x20
};
#define INCOMPAT_KNOWN 0x3fu
enum { TAG_ESCAPE = 1, TAG_SAME_UUID = 2, TAG_LAST = 8 };
#define UUID_SIZE 16

/* Default number of blocks for fast commits, at the end of the journal. */
#define FAST_BLOCKS 256

typedef struct {
    uint64_t block, copy;
    bool escaped, revoked;
} Record;

typedef struct {
    const FlExtJournal *io;
    uint32_t first, end; /* blocks of the log: [first, end), a ring */
    uint32_t sequence, incompat;
    GArray *records; /* of Record: of the current transaction */
    uint8_t *buf;    /* a block */
} Log;

static uint32_t get32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static uint64_t place_of(const Log *log, uint32_t at)
{
    return log->io->place(log->io->opaque, at);
}

static bool read_block(Log *log, uint32_t at)
{
    uint64_t block = place_of(log, at);

    return block != 0 && log->io->read(log->io->opaque, block, log->buf);
}

static uint32_t following(const Log *log, uint32_t at)
{
    return at + 1 < log->end ? at + 1 : log->first;
}

/* Size of the checksum at the end of a block, bytes. */
static uint32_t tail_size(const Log *log)
{
    return (log->incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3)) != 0 ? 4 : 0;
}

static uint32_t tag_size(const Log *log)
{
    uint32_t size = 8;

    if ((log->incompat & INCOMPAT_CSUM_V3) != 0)
        return 16;
    if ((log->incompat & INCOMPAT_CSUM_V2) != 0)
        size += 2;
    return (log->incompat & INCOMPAT_64BIT) != 0 ? size + 4 : size;
}

static void parse_tag(const Log *log, const uint8_t *tag, Record *record, uint32_t *flags)
{
    bool v3 = (log->incompat & INCOMPAT_CSUM_V3) != 0;

    record->block = get32(tag);
    *flags = v3 ? get32(tag + 4) : get32(tag + 4) & 0xffff;
    if ((log->incompat & INCOMPAT_64BIT) != 0)
        record->block |= (uint64_t)get32(tag + 8) << 32;
    record->escaped = (*flags & TAG_ESCAPE) != 0;
}

/* Parses the descriptor block in LOG->buf, and advances *AT past the blocks that it describes. */
static bool read_descriptor(Log *log, uint32_t *at)
{
    uint32_t size = tag_size(log), end = log->io->block_size - tail_size(log);
    uint32_t flags = 0;

    for (uint32_t i = HEADER_SIZE; i + size <= end && (flags & TAG_LAST) == 0; i += size) {
        Record record = {0};

        parse_tag(log, log->buf + i, &record, &flags);
        if ((flags & TAG_SAME_UUID) == 0)
            i += UUID_SIZE;
        *at = following(log, *at);
        record.copy = place_of(log, *at);
        if (record.copy == 0)
            return false;
        g_array_append_val(log->records, record);
    }
    return true;
}

static void read_revoke(Log *log)
{
    bool wide = (log->incompat & INCOMPAT_64BIT) != 0;
    uint32_t size = wide ? 8 : 4;
    uint32_t end = MIN(get32(log->buf + HEADER_SIZE), log->io->block_size - tail_size(log));

    for (uint32_t i = HEADER_SIZE + 4; i + size <= end; i += size) {
        Record record = {.block = get32(log->buf + i), .revoked = true};

        if (wide)
            record.block = record.block << 32 | get32(log->buf + i + 4);
        g_array_append_val(log->records, record);
    }
}

/* Applies a complete transaction. Its revocations apply to its own blocks, too. */
static void commit(Log *log, FlExtOverlay *overlay)
{
    for (guint i = 0; i < log->records->len; i++) {
        const Record *record = &g_array_index(log->records, Record, i);

        if (!record->revoked)
            fl_ext_overlay_set(overlay, record->block, record->copy, record->escaped);
    }
    for (guint i = 0; i < log->records->len; i++) {
        const Record *record = &g_array_index(log->records, Record, i);

        if (record->revoked)
            fl_ext_overlay_unset(overlay, record->block);
    }
    g_array_set_size(log->records, 0);
}

/* Walks the complete transactions from block AT on. */
static bool walk(Log *log, uint32_t at, FlExtOverlay *overlay)
{
    for (uint32_t n = 0; n < log->end; n++, at = following(log, at)) {
        if (!read_block(log, at))
            return false;
        if (memcmp(log->buf, FL_EXT_JOURNAL_MAGIC, 4) != 0 || get32(log->buf + 8) != log->sequence)
            return true;
        switch (get32(log->buf + 4)) {
        case BLOCK_DESCRIPTOR:
            if (!read_descriptor(log, &at))
                return false;
            break;
        case BLOCK_COMMIT:
            commit(log, overlay);
            log->sequence++;
            break;
        case BLOCK_REVOKE:
            read_revoke(log);
            break;
        default:
            return true;
        }
    }
    return true;
}

/* Parses the superblock in LOG->buf; *START is 0 if there is nothing to replay. */
static const char *parse_super(Log *log, uint32_t *start)
{
    const uint8_t *super = log->buf;
    uint32_t blocks = get32(super + SB_BLOCKS), fast = 0;

    if (memcmp(super, FL_EXT_JOURNAL_MAGIC, 4) != 0 ||
        get32(super + SB_BLOCK_SIZE) != log->io->block_size)
        return "it has no superblock";
    /* Version 1 has no feature flags. */
    if (get32(super + 4) == BLOCK_SUPER_V2)
        log->incompat = get32(super + SB_INCOMPAT);
    if ((log->incompat & ~INCOMPAT_KNOWN) != 0)
        return "it has unknown features";
    if ((log->incompat & INCOMPAT_FAST) != 0)
        fast = get32(super + SB_FAST_BLOCKS) != 0 ? get32(super + SB_FAST_BLOCKS) : FAST_BLOCKS;
    log->first = get32(super + SB_FIRST);
    log->sequence = get32(super + SB_SEQUENCE);
    *start = get32(super + SB_START);
    if (fast >= blocks)
        return "its superblock is invalid";
    log->end = blocks - fast;
    if (log->first == 0 || log->first >= log->end || *start >= log->end)
        return "its superblock is invalid";
    return NULL;
}

bool fl_ext_journal_replay(const FlExtJournal *journal, FlExtOverlay *overlay, GError **error)
{
    g_autoptr(GArray) records = g_array_new(FALSE, FALSE, sizeof(Record));
    g_autofree uint8_t *buf = g_malloc(journal->block_size);
    Log log = {.io = journal, .records = records, .buf = buf};
    const char *why = NULL;
    uint32_t start = 0;

    if (!read_block(&log, 0))
        why = "it cannot be read";
    else
        why = parse_super(&log, &start);
    if (why == NULL && start != 0 && !walk(&log, start, overlay))
        why = "it cannot be read to its end";
    if (why == NULL && (log.incompat & INCOMPAT_FAST) != 0)
        why = "it has fast commits, which are not replayed";
    return why == NULL || fl_fail(error, "%s", why);
}
