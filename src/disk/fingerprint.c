/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fingerprint.h"

#include <string.h>

#define SAMPLES 8
#define BYTES   4096u

typedef struct {
    uint64_t offset;
    size_t length; /* 0: none yet */
    char checksum[41];
} Sample;

struct FlFingerprint {
    uint64_t reads; /* reads seen so far */
    Sample kept[SAMPLES];
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
    Sample *kept = &fingerprint->kept[n < SAMPLES ? n : (uint64_t)g_bit_storage(n) % SAMPLES];

    /* Keep the first reads, then one each time their number doubles. */
    if (n >= SAMPLES && (n & (n - 1)) != 0)
        return;
    kept->offset = read->offset;
    kept->length = MIN(read->length, MAX(BYTES, info->block_min));
    checksum(kept->checksum, read->buf, kept->length);
}

static bool is_same(const FlFingerprint *fingerprint, void *const *bytes)
{
    for (unsigned i = 0; i < SAMPLES; i++) {
        const Sample *kept = &fingerprint->kept[i];
        char now[41];

        if (kept->length == 0)
            continue;
        checksum(now, bytes[i], kept->length);
        if (strcmp(now, kept->checksum) != 0)
            return false;
    }
    return true;
}

bool fl_fingerprint_check(const FlFingerprint *fingerprint, FlConn *conn, const FlWait *wait,
                          GError **error)
{
    FlSpan spans[SAMPLES];
    void *bytes[SAMPLES];
    bool same;

    for (unsigned i = 0; i < SAMPLES; i++) {
        const Sample *kept = &fingerprint->kept[i];
        spans[i] = (FlSpan){.start = kept->offset, .end = kept->offset + kept->length};
    }
    if (!fl_conn_peek(conn, spans, SAMPLES, bytes, wait, error))
        return false;
    same = is_same(fingerprint, bytes);
    for (unsigned i = 0; i < SAMPLES; i++)
        g_free(bytes[i]);
    return same || fl_fail_changed(error, "bytes that were read have changed");
}
