/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text maps of all formats, of a disk of 1 MiB. */
#include "source/textmap/textmap.h"

#include "fuzz.h"

#include <string.h>

#define DISK_BYTES (UINT64_C(1) << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlMap) map = fl_textmap_parse((const char *)data, size, DISK_BYTES, "map", &error);

    g_assert_true((map == NULL) == (error != NULL));
    if (map != NULL) {
        g_assert_cmpuint(fl_map_size(map), ==, DISK_BYTES);
        for (size_t i = 0; i < fl_map_count(map); i++)
            g_assert_cmpuint(fl_map_get(map, i).type, <=, FL_DIRTY);
    } else {
        g_assert_true(g_str_has_prefix(error->message, "map"));
        g_assert_null(strchr(error->message, '\n'));
    }
    return 0;
}
