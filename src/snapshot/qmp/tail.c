/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Marks the end of a disk, to detect one that was shrunk and grown again: the identity bitmap has
 * its last bit set. QEMU truncates bitmaps, enabled or disabled, together with the disk, and what
 * it adds later is clean: the bit does not come back.
 *
 * Only a write sets a bit in a bitmap. So a data-less node of the disk's size gets a bitmap of the
 * same geometry and a write from QEMU's own qemu-io; the transaction then merges that bitmap into
 * the identity.
 */
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"

/* More bits detect smaller cuts but take more memory: 2 MiB, unless the granularity would exceed
 * that of other bitmaps. */
#define BITS            (UINT64_C(1) << 24)
#define GRANULARITY_MIN UINT64_C(512)
#define GRANULARITY_MAX (UINT64_C(64) << 10)

uint64_t fl_fleece_tail_granularity(uint64_t size)
{
    uint64_t granularity = GRANULARITY_MIN;

    while (granularity < GRANULARITY_MAX && size / granularity > BITS)
        granularity *= 2;
    return granularity;
}

static bool add_tail(FlFleece *session, const FlFleeceDisk *disk, GError **error)
{
    uint64_t size = disk->disk.size, granularity = fl_fleece_tail_granularity(size);
    uint64_t start = (size - 1) / granularity * granularity;
    g_autofree char *node = fl_fleece_id(disk, FL_FLEECE_TAIL);
    g_autofree char *line =
        g_strdup_printf("qemu-io %s \"write -q -z %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT "\"",
                        node, start, size - start);

    return fl_fleece_do(
               session, "blockdev-add",
               fl_qmp_args(fl_qmp_string("driver", "null-co"), fl_qmp_string("node-name", node),
                           fl_qmp_int("size", (gint64)size), fl_qmp_bool("read-zeroes", true)),
               NULL, error, "disk %s: cannot mark its end", disk->disk.name) &&
           fl_fleece_do(session, "block-dirty-bitmap-add",
                        fl_qmp_args(fl_qmp_string("node", node),
                                    fl_qmp_string("name", FL_FLEECE_TAIL),
                                    fl_qmp_int("granularity", (gint64)granularity)),
                        NULL, error, "disk %s: cannot mark its end", disk->disk.name) &&
           fl_fleece_do(session, "human-monitor-command",
                        fl_qmp_args(fl_qmp_string("command-line", line)), NULL, error,
                        "disk %s: cannot mark its end", disk->disk.name);
}

bool fl_fleece_add_tails(FlFleece *session, GError **error)
{
    for (guint i = 0; i < session->backup.disks->len; i++) {
        const FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);

        if (!disk->no_point && disk->disk.disk_id == NULL && !add_tail(session, disk, error))
            return false;
    }
    return true;
}

/* Ignores failures: the sweep removes what remains. */
void fl_fleece_drop_tails(FlFleece *session)
{
    for (guint i = 0; i < session->backup.disks->len; i++) {
        const FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);
        g_autofree char *node = fl_fleece_id(disk, FL_FLEECE_TAIL);

        if (disk->new_identity)
            fl_qmp_call(session->qmp, "blockdev-del", fl_qmp_args(fl_qmp_string("node-name", node)),
                        NULL, NULL);
    }
}
