/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal of an ext4 file system: the input is its blocks, of 1024 bytes. */
#include "ext-journal.h"
#include "fuzz.h"

#include <string.h>

#define BLOCK_SIZE 1024
/* First block of the journal in the file system. */
#define PLACE UINT64_C(1000)

typedef struct {
    const uint8_t *data;
    size_t size;
} Input;

static uint64_t place(void *opaque, uint32_t at)
{
    const Input *input = opaque;

    return at < input->size / BLOCK_SIZE ? PLACE + at : 0;
}

static bool read_block(void *opaque, uint64_t block, void *buf)
{
    const Input *input = opaque;

    g_assert_cmpuint(block, >=, PLACE);
    g_assert_cmpuint(block - PLACE, <, input->size / BLOCK_SIZE);
    memcpy(buf, input->data + (block - PLACE) * BLOCK_SIZE, BLOCK_SIZE);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Input input = {.data = data, .size = size};
    const FlExtJournal journal = {
        .block_size = BLOCK_SIZE, .place = place, .read = read_block, .opaque = &input};
    g_autoptr(FlExtOverlay) overlay = fl_ext_overlay_new(BLOCK_SIZE);
    g_autoptr(GError) error = NULL;
    bool ok = fl_ext_journal_replay(&journal, overlay, &error);

    g_assert_cmpint(ok, ==, error == NULL);
    for (uint64_t block = 0; block < 64; block++) {
        uint64_t found = fl_ext_overlay_find(overlay, block);

        g_assert_true(found == block || (found > PLACE && found - PLACE < size / BLOCK_SIZE));
    }
    return 0;
}
