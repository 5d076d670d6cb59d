/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wait.h"

#include "util/deadline.h"
#include "util/interrupt.h"

#include <errno.h>
#include <string.h>

/* Whether the handshake has advanced past STAGE: libnbd sends several requests on its own, newer
 * versions more, and each answer gets its own timeout. The number of libnbd's stages is finite, so
 * this terminates. */
static bool handshake_moves_on(struct nbd_handle *nbd, char **stage)
{
    const char *now = nbd_aio_is_connecting(nbd) ? nbd_connection_state(nbd) : NULL;
    bool moved = now != NULL && *stage != NULL && !g_str_equal(now, *stage);

    if (now == NULL || *stage == NULL || moved) {
        g_free(*stage);
        *stage = g_strdup(now);
    }
    return moved;
}

/* Whether MESSAGE from libnbd means that the peer disconnected unexpectedly. */
static bool is_end(const char *message)
{
    return strstr(message, "server disconnected unexpectedly") != NULL;
}

bool fl_nbd_wait(struct nbd_handle *nbd, bool (*done)(struct nbd_handle *nbd, void *opaque),
                 void *opaque, const FlWait *wait, GError **error)
{
    /* Short slices, so that cancellation needs no descriptor. */
    enum { SLICE_MS = 100 };
    gint64 late = fl_deadline_in(wait->seconds);
    g_autofree char *stage = NULL;

    while (!done(nbd, opaque)) {
        gint64 now = g_get_monotonic_time();

        if (handshake_moves_on(nbd, &stage))
            late = fl_deadline_in(wait->seconds);

        if (wait->cancel != NULL && g_cancellable_set_error_if_cancelled(wait->cancel, error))
            return false;
        if (!fl_interrupt_check(error))
            return false;
        if (nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd))
            return fl_fail_lost(error, "the server closed the connection");
        if (now >= late)
            return fl_fail_lost(error, "the server has not answered for %u seconds", wait->seconds);
        if (wait->deadline != 0 && now >= wait->deadline)
            return fl_fail_lost(error, "the server is too slow");
        if (nbd_poll(nbd, SLICE_MS) >= 0 || nbd_get_errno() == EINTR)
            continue;
        /* libnbd sets no errno for a protocol violation, which a retry will not fix; nor for a
         * disconnection, which it may. */
        return nbd_get_errno() == 0 && !is_end(nbd_get_error())
                   ? fl_fail(error, "%s", fl_nbd_error())
                   : fl_fail_lost(error, "%s", fl_nbd_error());
    }
    return true;
}

const char *fl_nbd_error(void)
{
    const char *message = nbd_get_error(), *colon = message != NULL ? strstr(message, ": ") : NULL;

    if (message == NULL)
        return "unknown error";
    return g_str_has_prefix(message, "nbd_") && colon != NULL ? colon + 2 : message;
}

void fl_nbd_close(struct nbd_handle *nbd)
{
    if (nbd == NULL)
        return;
    if (nbd_aio_is_negotiating(nbd))
        nbd_aio_opt_abort(nbd);
    else if (nbd_aio_is_ready(nbd))
        nbd_aio_disconnect(nbd, 0);
    nbd_close(nbd);
}
