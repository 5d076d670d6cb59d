/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a monitor or guest agent writes: JSON objects over a socket. */
#include "fuzz.h"
#include "qemu/channel.h"
#include "qemu/json.h"

#include <sys/socket.h>
#include <unistd.h>

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
            fl_json_length(fl_json_array(message, "return"));
            json_object_unref(message);
        } else if (ok) {
            ok = fl_channel_fill(channel, deadline, &ready, NULL);
        }
    }
    return 0;
}
