/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest agent: the input is everything that it writes. */
#include "fuzz.h"

/* Included for a sync number that the input can contain. */
#include "../../src/qemu/agent.c" // NOLINT

#define TIMEOUT 1000 /* milliseconds; the guest has disconnected, so nothing waits */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int pair[2];
    g_autoptr(FlAgent) agent = g_new0(FlAgent, 1);
    bool frozen;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    g_assert_true(size <= 65536 && send(pair[0], data, size, MSG_NOSIGNAL) == (ssize_t)size);
    shutdown(pair[0], SHUT_WR);
    agent->fd = pair[1];
    agent->name = g_strdup("fuzz");
    agent->in = g_byte_array_new();
    agent->out_of_step = true;
    for (int i = 0; i < 4; i++) {
        g_autoptr(GError) error = NULL;

        g_assert_true(fl_agent_frozen(agent, TIMEOUT, &frozen, &error) == (error == NULL));
        fl_agent_thaw(agent, TIMEOUT, NULL);
    }
    close(pair[0]);
    return 0;
}
