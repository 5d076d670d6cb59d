/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Partition tables: the input is the contents of all sectors that the parser reads. */
#include "disk/table.h"
#include "fuzz.h"

#include <glib.h>
#include <string.h>

/* Large enough for the tables of the corpus. */
#define DISK_BYTES (UINT64_C(1) << 30)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[FL_TABLE_MAX];
    g_autoptr(FlTable) table = fl_table_new(DISK_BYTES, size % 2 == 0 ? 512 : 4096);
    uint64_t offset;
    size_t length, used = 0;

    while (fl_table_wants(table, &offset, &length)) {
        size_t n = MIN(length, size - used);

        g_assert_cmpuint(length, <=, sizeof bytes);
        g_assert_cmpuint(offset, <=, DISK_BYTES - length);
        memset(bytes, 0, sizeof bytes);
        memcpy(bytes, data + used, n);
        /* The links of a chain follow the first sectors. */
        if (used == 0)
            used = MIN(size, 512);
        fl_table_feed(table, bytes);
    }
    for (guint i = 0; i < fl_table_partitions(table)->len; i++) {
        const FlPartition *partition = fl_table_partitions(table)->pdata[i];

        g_assert_cmpuint(partition->start, <, DISK_BYTES);
        g_assert_cmpuint(partition->length, <=, DISK_BYTES - partition->start);
        g_assert_cmpuint(partition->length, >, 0);
        g_assert_true(partition->name == NULL || g_utf8_validate(partition->name, -1, NULL));
    }
    return 0;
}
