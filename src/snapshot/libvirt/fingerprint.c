/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checks that the disks still match their bitmaps. libvirt has one bitmap per checkpoint on each
 * disk and no place for more, so nothing in an image shows that it was shrunk and grown again, that
 * a bitmap was cleared, or whose contents it has. So samples of the contents are compared.
 */
#include "snapshot/libvirt/session.h"

#include "snapshot/fingerprint.h"
#include "source/nbd/nbd.h"

/* seconds */
#define TIMEOUT 30
/* Limit, in bytes, on what the server may make us remember. */
#define MEMORY (UINT64_C(64) << 20)

static void compare(FlLibvirtDisk *disk, FlSource *source, const FlExportInfo *info,
                    const FlWait *wait)
{
    const FlBitmap *bitmap =
        disk->disk.bitmaps->len > 0 ? g_ptr_array_index(disk->disk.bitmaps, 0) : NULL;
    g_autoptr(GError) failure = NULL;

    if (bitmap != NULL && disk->disk.fingerprint != NULL &&
        !fl_point_fingerprint_check(source, info, disk->disk.fingerprint, bitmap->context, wait,
                                    &failure))
        fl_libvirt_make_full(disk, g_strdup(failure->message));
}

static void visit(FlLibvirtSession *session, FlLibvirtDisk *disk, FlSource *source)
{
    unsigned timeout = session->backup.options->timeout;
    FlWait wait = {.seconds = timeout != 0 ? timeout : TIMEOUT};
    g_autoptr(GError) failure = NULL;
    g_autoptr(GPtrArray) exports =
        fl_source_exports(source, disk->disk.export_name, &wait, &failure);

    if (exports != NULL) {
        compare(disk, source, exports->pdata[0], &wait);
        disk->fingerprint = fl_point_fingerprint_take(source, exports->pdata[0], &wait, &failure);
    }
    /* Without a fingerprint the next increment relies on the bitmap alone. */
    if (disk->fingerprint == NULL)
        fl_snapshot_note(&session->backup,
                         "disk %s: cannot save its fingerprint, so the next backup cannot detect "
                         "whether it was shrunk or replaced: %s",
                         disk->disk.name, failure->message);
}

void fl_libvirt_compare(FlLibvirtSession *session)
{
    FlSnapshot *backup = &session->backup;
    g_autoptr(FlBudget) budget = fl_budget_new(MEMORY);
    g_autoptr(FlSource) source =
        backup->server_uri != NULL
            ? fl_source_nbd_new_uri(backup->server_uri, budget)
            : fl_source_nbd_new_socket(backup->socket, backup->options->source, budget);

    for (guint i = 0; i < backup->disks->len; i++) {
        FlLibvirtDisk *disk = g_ptr_array_index(backup->disks, i);
        if (disk->point)
            visit(session, disk, source);
    }
}
