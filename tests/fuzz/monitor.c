/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A QMP monitor or guest agent: the input is JSON objects from a socket. */
#include "snapshot/qmp/vm.h"
#include "fuzz.h"
#include "qemu/channel.h"
#include "qemu/json.h"

#include <sys/socket.h>
#include <unistd.h>

/* Parses MESSAGE as a reply to query-block. */
static void take_disks(JsonObject *message)
{
    JsonNode *reply = json_object_get_member(message, "return");
    g_autoptr(GPtrArray) disks = reply != NULL ? fl_vm_parse_disks(reply) : NULL;

    for (guint i = 0; disks != NULL && i < disks->len; i++) {
        const FlVmDisk *disk = disks->pdata[i];
        g_assert_nonnull(disk->name);
        g_assert_nonnull(disk->driver);
        g_assert_true(disk->size <= G_MAXINT64);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int pair[2];
    g_autoptr(FlChannel) channel = NULL;
    gint64 deadline = g_get_monotonic_time() + G_USEC_PER_SEC;
    bool ok = true, ready = true;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    g_assert_true(size <= 65536 && send(pair[0], data, size, MSG_NOSIGNAL) == (ssize_t)size);
    close(pair[0]);
    channel = fl_channel_new_fd(pair[1], "fuzz", NULL);
    while (ok && ready) {
        g_autoptr(GError) error = NULL;
        JsonObject *message = NULL;

        ok = fl_channel_next(channel, &message, &error);
        g_assert_true(ok == (error == NULL));
        if (message != NULL) {
            fl_json_string(fl_json_object(message, "error"), "desc");
            fl_json_int(message, "return");
            take_disks(message);
            json_object_unref(message);
        } else if (ok) {
            ok = fl_channel_fill(channel, deadline, &ready, NULL);
        }
    }
    return 0;
}
