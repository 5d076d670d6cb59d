/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Block status into a map: the input is the disk's size and replies for two contexts. */
#include "fuzz.h"

/* Included, because libnbd's callbacks are static functions. */
#include "../../src/source/nbd/walk.c" // NOLINT

static uint32_t take(const uint8_t **data, size_t *size)
{
    uint8_t bytes[4] = {0};
    size_t n = MIN(*size, sizeof bytes);

    memcpy(bytes, *data, n);
    *data += n;
    *size -= n;
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static void check_map(FlMapBuilder *builder, uint64_t size)
{
    g_autoptr(FlMap) map = fl_map_builder_finish(builder);
    uint64_t at = 0;

    g_assert_cmpuint(fl_map_size(map), ==, size);
    for (size_t i = 0; i < fl_map_count(map); i++) {
        FlExtent e = fl_map_get(map, i);
        g_assert_cmpuint(e.start, ==, at);
        g_assert_cmpuint(e.end, >, at);
        g_assert_true(i == 0 || fl_map_get(map, i - 1).type != e.type);
        at = e.end;
    }
    g_assert_cmpuint(at, ==, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const contexts[] = {"base:allocation", "qemu:dirty-bitmap:b", NULL};
    uint64_t disk_size = ((uint64_t)take(&data, &size) << 32 | take(&data, &size)) >> 1;
    FlMapBuilder *builders[] = {fl_map_builder_new(), fl_map_builder_new()};
    Walk walk = {.contexts = (char **)contexts,
                 .ncontexts = 2,
                 .disk_size = disk_size,
                 .block = 1,
                 .most = disk_size,
                 .nsegments = 1};
    Segment segment = {.walk = &walk, .end = disk_size, .builders = builders};
    int error = 0;

    walk.segments = &segment;
    while (segment.at < segment.end && walk.wrong == NULL) {
        uint64_t before = segment.at;

        segment.busy = true;
        segment.grew = false;
        for (unsigned c = 0; c < 2; c++) {
            /* Entries in the width that the library passes. */
#ifdef HAVE_NBD_BLOCK_STATUS_64
            nbd_extent entries[4];
            for (unsigned i = 0; i < 4; i++) {
                entries[i].length = (uint64_t)take(&data, &size) << (i * 8);
                entries[i].flags = take(&data, &size);
            }
            take_extents(&segment, contexts[c], before, entries, 4, &error);
#else
            uint32_t entries[8];
            for (unsigned i = 0; i < 8; i++)
                entries[i] = take(&data, &size);
            take_extents(&segment, contexts[c], before, entries, 8, &error);
#endif
            g_assert_cmpuint(fl_map_builder_size(builders[c]), <=, disk_size);
        }
        request_done(&segment, &error);
        g_assert_false(segment.busy);
        g_assert_true(walk.wrong != NULL || segment.at > before);
    }
    for (unsigned c = 0; c < 2; c++) {
        if (walk.wrong == NULL)
            check_map(builders[c], disk_size);
        else
            fl_map_builder_free(builders[c]);
    }
    return 0;
}
