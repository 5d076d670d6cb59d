/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The chunks of a structured reply: the input has a byte for the start and one for the length of
 * each. A model of every byte has the expected result. */
#include "fuzz.h"

#include "reply.h"

#define SIZE 600u /* beyond the last byte that a chunk can reach */
#define UNIT (UINT64_C(1) << 30)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned brought[SIZE] = {0};
    guint start = 0, end = SIZE;
    bool once = size >= 2;
    FlReply reply = {0};

    for (size_t i = 0; i + 1 < size; i += 2) {
        guint from = data[i], length = data[i + 1];

        fl_reply_add(&reply, from * UNIT, length * UNIT);
        once = once && length > 0;
        for (guint b = from; b < from + length; b++)
            once = ++brought[b] == 1 && once;
    }
    while (start < SIZE && brought[start] == 0)
        start++;
    while (end > start && brought[end - 1] == 0)
        end--;
    for (guint b = start; b < end; b++)
        once = once && brought[b] == 1;
    g_assert_true(fl_reply_is(&reply, start * UNIT, (end - start) * UNIT) == once);
    g_assert_false(fl_reply_is(&reply, start * UNIT, (end - start + 1) * UNIT));
    g_assert_false(fl_reply_is(&reply, start * UNIT + 1, (end - start) * UNIT));
    fl_reply_clear(&reply);
    return 0;
}
