/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fingerprint.h"

#include <string.h>

#define WITNESSES 8
#define BYTES     4096u
#define SLOT      (64u << 10) /* the largest block size that a server may ask for */

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

typedef struct {
    unsigned waiting;
    bool sending; /* inside nbd_aio_pread() */
    int error;
} Reads;

static int read_done(void *opaque, int *error)
{
    Reads *reads = opaque;

    reads->waiting--;
    if (*error != 0)
        reads->error = *error;
    /* What fails while it is being sent must not be freed yet: see read_done() in conn.c. */
    return !reads->sending;
}

static bool all_done(struct nbd_handle *nbd, void *opaque)
{
    return ((const Reads *)opaque)->waiting == 0;
}

bool fl_fingerprint_check(const FlFingerprint *fingerprint, struct nbd_handle *nbd,
                          const FlWait *wait, GError **error)
{
    Reads reads = {0};
    nbd_completion_callback done = {.callback = read_done, .user_data = &reads};
    g_autofree char *buf = g_try_malloc0(WITNESSES * SLOT);
    bool same = true;

    if (buf == NULL)
        return fl_fail_lost(error, "there is no memory to look at it");
    for (unsigned i = 0; i < WITNESSES; i++) {
        const Witness *kept = &fingerprint->kept[i];

        if (kept->length == 0)
            continue;
        reads.waiting++;
        reads.sending = true;
        if (nbd_aio_pread(nbd, buf + i * SLOT, kept->length, kept->offset, done, 0) < 0)
            return fl_fail_lost(error, "%s", nbd_get_error());
        reads.sending = false;
    }
    if (!fl_nbd_wait(nbd, all_done, &reads, wait, error))
        return false;
    if (reads.error != 0)
        return fl_fail_lost(error, "it cannot be read: %s", g_strerror(reads.error));
    for (unsigned i = 0; i < WITNESSES; i++) {
        const Witness *kept = &fingerprint->kept[i];
        char now[41];

        if (kept->length == 0)
            continue;
        checksum(now, buf + i * SLOT, kept->length);
        same = same && strcmp(now, kept->checksum) == 0;
    }
    return same || fl_fail_changed(error, "bytes that were read have changed");
}
