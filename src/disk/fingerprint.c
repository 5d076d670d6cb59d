/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fingerprint.h"

#include "source/nbd/pread.h"

#include <string.h>

#define WITNESSES 8
#define BYTES     4096u

typedef struct {
    uint64_t offset;
    size_t length; /* 0: none yet */
    char checksum[41];
} Witness;

struct FlFingerprint {
    uint64_t reads; /* noted so far */
    Witness kept[WITNESSES];
};

FlFingerprint *fl_fingerprint_new(void)
{
    return g_new0(FlFingerprint, 1);
}

FlFingerprint *fl_fingerprint_copy(const FlFingerprint *fingerprint)
{
    return g_memdup2(fingerprint, sizeof *fingerprint);
}

void fl_fingerprint_free(FlFingerprint *fingerprint)
{
    g_free(fingerprint);
}

static void checksum(char to[41], const void *bytes, size_t length)
{
    g_autofree char *sum = g_compute_checksum_for_data(G_CHECKSUM_SHA1, bytes, length);

    g_strlcpy(to, sum, 41);
}

void fl_fingerprint_note(FlFingerprint *fingerprint, const FlRead *read, const FlExportInfo *info)
{
    uint64_t n = fingerprint->reads++;
    Witness *kept = &fingerprint->kept[n < WITNESSES ? n : (uint64_t)g_bit_storage(n) % WITNESSES];

    /* The first ones, then one each time that their number has doubled. */
    if (n >= WITNESSES && (n & (n - 1)) != 0)
        return;
    kept->offset = read->offset;
    kept->length = MIN(read->length, MAX(BYTES, info->block_min));
    checksum(kept->checksum, read->buf, kept->length);
}

static bool is_same(const FlFingerprint *fingerprint, FlPread *const *preads)
{
    for (unsigned i = 0; i < WITNESSES; i++) {
        const Witness *kept = &fingerprint->kept[i];
        char now[41];

        if (kept->length == 0)
            continue;
        checksum(now, fl_pread_bytes(preads[i]), kept->length);
        if (strcmp(now, kept->checksum) != 0)
            return false;
    }
    return true;
}

bool fl_fingerprint_check(const FlFingerprint *fingerprint, struct nbd_handle *nbd,
                          const FlWait *wait, GError **error)
{
    FlSpan spans[WITNESSES];
    FlPread *preads[WITNESSES];
    bool same;

    for (unsigned i = 0; i < WITNESSES; i++) {
        const Witness *kept = &fingerprint->kept[i];
        spans[i] = (FlSpan){.start = kept->offset, .end = kept->offset + kept->length};
    }
    if (!fl_pread_spans(nbd, spans, WITNESSES, preads, wait, error))
        return false;
    same = is_same(fingerprint, preads);
    for (unsigned i = 0; i < WITNESSES; i++)
        fl_pread_abandon(preads[i]);
    return same || fl_fail_changed(error, "bytes that were read have changed");
}
